"""The discriminator of the paper: purified or original?

Paper, section 3.2.2: 5 convolutional layers with residual connections, average pooling, four fully
connected layers of 4096, 1024, 64 and 1. Ours, since the paper is silent: stride 2, channels
16 ... 256, leaky ReLU, logits instead of probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import check_log_mels, check_type
from servax.kinds import check_list, check_size, typed


@dataclass(frozen=True)
class DiscriminatorSettings:
    """What rebuilds a `Discriminator`."""

    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Output channels of each residual convolution."""
    hidden: tuple[int, ...] = (4096, 1024, 64)
    """Sizes of the fully connected layers before the last, which has size 1."""

    def __post_init__(self) -> None:
        # Settings read back from JSON arrive with lists.
        check_list("channels", self.channels)
        check_list("hidden", self.hidden)
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("channels", "hidden"):
            if not getattr(self, name):
                raise SettingError(name, getattr(self, name), "at least one size")
            for size in getattr(self, name):
                check_size(name, size, largest=65_536)


class ResidualConvolution(nn.Module):
    """A 3x3 convolution of stride 2 with a 1x1 shortcut beside it."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=2)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, ceil(M / 2), ceil(F / 2)) of (B, C_in, M, F)."""
        hidden: Tensor = self.activation(self.convolution(x)) + self.shortcut(x)
        return hidden


class Discriminator(nn.Module):
    """Maps spectrograms (B, 1, M, F) to one logit each (B,): above 0 means original."""

    def __init__(self, settings: DiscriminatorSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or DiscriminatorSettings()
        sizes = (1, *s.channels)
        self.convolutions = nn.Sequential(*(ResidualConvolution(a, b) for a, b in pairwise(sizes)))
        widths = (s.channels[-1], *s.hidden)
        hidden: list[nn.Module] = []
        for a, b in pairwise(widths):
            hidden += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        self.head = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B,) of spectrograms (B, 1, M, F)."""
        check_log_mels(x)
        check_type("x", x.dtype, next(self.parameters()))
        pooled = self.convolutions(x).mean(dim=(2, 3))  # (B, C)
        logits: Tensor = self.head(pooled).squeeze(1)
        return logits
