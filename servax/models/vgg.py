"""VGG-16 for spectrograms, with named taps (Simonyan & Zisserman 2015; Ren et al. 2020, [18]).

Five blocks of 3x3 convolutions with batch norm and ReLU after each, 2x2 max-pooling after each
block, global max pooling, one linear layer. The paper uses it as the target SER model and,
separately trained, as the feature extractor of SSA and of L_feat. 14.72 M parameters at width 64
and four classes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.errors import SettingError, ShapeError
from servax.features import check_type
from servax.kinds import typed
from servax.models.layers import Layers
from servax.models.sizes import check_size

# (channels as a multiple of the width, convolutions) of each block.
BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
TAPS = tuple(
    name
    for block, (_, convolutions) in enumerate(BLOCKS, start=1)
    for name in (*(f"conv{block}_{i}" for i in range(1, convolutions + 1)), f"pool{block}")
)
"""Places where features can be read: after the ReLU of a convolution, or after a pooling."""


@dataclass(frozen=True)
class VGG16Settings:
    """What rebuilds a `VGG16`."""

    classes: int = 4
    """Number of emotions."""
    width: int = 64
    """Channels of the first block; 64 is the published network, 16 trains ten times faster."""

    def __post_init__(self) -> None:
        check_size("classes", self.classes, smallest=2, largest=100_000)
        check_size("width", self.width, largest=1024)


class VGG16(nn.Module):
    """Classifies log-Mel spectrograms (B, 1, M, F) into logits (B, C); M and F at least 32."""

    def __init__(self, classes: int = 4, width: int = 64) -> None:
        super().__init__()
        self.settings = VGG16Settings(classes=classes, width=width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 1
        for block, (multiple, convolutions) in enumerate(BLOCKS, start=1):
            for i in range(1, convolutions + 1):
                out = multiple * width
                # No bias: the batch norm that follows has one.
                layers[f"conv{block}_{i}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
                layers[f"norm{block}_{i}"] = nn.BatchNorm2d(out)
                layers[f"relu{block}_{i}"] = nn.ReLU(inplace=True)
                channels = out
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @typed
    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled embedding (B, 8 * width) of spectrograms (B, 1, M, F)."""
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < 32:
            raise ShapeError("x", x.shape, "(B, 1, M, F) with M and F of at least 32")
        check_type("x", x.dtype, self.head.weight)
        return torch.amax(self.features(x), dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of spectrograms (B, 1, M, F)."""
        logits: Tensor = self.head(self.embed(x))
        return logits


def feature_extractor(network: VGG16, tap: str) -> nn.Sequential:
    """Return the layers of `network` up to `tap` and no further; weights are shared.

    Args:
        network: The trained network.
        tap: One of `TAPS`; ``conv3_3`` is read after its ReLU, as NRP does (Naseer et al. 2020).

    Raises:
        SettingError: `tap` is not one of `TAPS`.
    """
    if tap not in TAPS:
        raise SettingError.choice("tap", tap, TAPS)
    last = tap.replace("conv", "relu")
    names = list(network.features._modules)
    kept = names[: names.index(last) + 1]
    return Layers(OrderedDict((name, network.features.get_submodule(name)) for name in kept))
