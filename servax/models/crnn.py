"""A convolutional recurrent network for spectrograms (Chen et al. 2018, "3-D CRNNs").

Convolutions read the spectrogram, a bidirectional GRU reads the frames that they leave, attention
weighs the frames, one linear layer decides. Differs from its source: log-Mel without deltas, four
3x3 convolutions with batch norm, a GRU instead of an LSTM, and the highest activation over Mel
bins instead of all of them, so that any number of bins will do. 1.75 M parameters at width 64 and
four classes, .11 M at width 16.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features import check_type
from servax.kinds import typed
from servax.models.sizes import check_size

# (channels as a multiple of the width, pooling over (Mel bins, frames)) of each convolution.
BLOCKS = ((1, (2, 2)), (2, (2, 2)), (4, (2, 1)), (4, (2, 1)))
HIDDEN = 4
"""Size of the GRU in each direction, as a multiple of the width."""
DROPOUT = 0.3
"""Share of the activations dropped before the GRU and before the linear layer, in training."""
SMALLEST = 16
"""Mel bins are halved four times."""


@dataclass(frozen=True)
class CRNNSettings:
    """What rebuilds a `CRNN`."""

    classes: int = 4
    """Number of emotions."""
    width: int = 64
    """Channels of the first convolution."""

    def __post_init__(self) -> None:
        check_size("classes", self.classes, smallest=2, largest=100_000)
        check_size("width", self.width, largest=1024)


class CRNN(nn.Module):
    """Classifies log-Mel spectrograms (B, 1, M, F) into logits (B, C); M and F at least 16."""

    def __init__(self, classes: int = 4, width: int = 64) -> None:
        super().__init__()
        self.settings = CRNNSettings(classes=classes, width=width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 1
        for block, (multiple, pooling) in enumerate(BLOCKS, start=1):
            out = multiple * width
            # No bias: the batch norm that follows has one.
            layers[f"conv{block}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            layers[f"norm{block}"] = nn.BatchNorm2d(out)
            layers[f"relu{block}"] = nn.ReLU(inplace=True)
            layers[f"pool{block}"] = nn.MaxPool2d(pooling)
            channels = out
        self.features = nn.Sequential(layers)
        self.dropout = nn.Dropout(DROPOUT)
        self.gru = nn.GRU(channels, HIDDEN * width, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * HIDDEN * width, 1)
        self.head = nn.Linear(2 * HIDDEN * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @typed
    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled embedding (B, 8 * width) of spectrograms (B, 1, M, F)."""
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < SMALLEST:
            raise ShapeError("x", x.shape, f"(B, 1, M, F) with M and F of at least {SMALLEST}")
        check_type("x", x.dtype, self.head.weight)
        highest = torch.amax(self.features(x), dim=2)  # (B, 4 * width, F / 4)
        frames = self.dropout(highest.transpose(1, 2))  # (B, F / 4, 4 * width)
        with _differentiable(self.gru):
            hidden, _ = self.gru(frames)  # (B, F / 4, 8 * width)
        weights = torch.softmax(self.attention(hidden), dim=1)  # (B, F / 4, 1)
        pooled: Tensor = (weights * hidden).sum(dim=1)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of spectrograms (B, 1, M, F)."""
        logits: Tensor = self.head(self.dropout(self.embed(x)))
        return logits


@contextmanager
def _differentiable(gru: nn.GRU) -> Iterator[None]:
    """Keep torch from cuDNN in evaluation mode: its GRU has gradients in training mode only.

    An attack needs them in evaluation mode; on a CPU nothing changes.
    """
    if gru.training or not gru.weight_ih_l0.is_cuda:
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield
