"""ResNet-18 for spectrograms (He et al. 2016, table 1 and figure 5 left).

A stem, four stages of two basic blocks, global average pooling, one linear layer. Differs in the
stem, which is one 3x3 convolution and a 2x2 max-pooling: a spectrogram of 64 Mel bins would leave
a 7x7 convolution of stride 2 and its pooling with too few of them. 11.17 M parameters at width 64
and four classes, .70 M at width 16.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features import check_type
from servax.kinds import typed
from servax.models.sizes import check_size

# Channels of each stage as a multiple of the width; all but the first halve their input.
STAGES = (1, 2, 4, 8)
BLOCKS = 2
"""Basic blocks of a stage."""
SMALLEST = 16
"""The input is halved four times."""


@dataclass(frozen=True)
class ResNetSettings:
    """What rebuilds a `ResNet`."""

    classes: int = 4
    """Number of emotions."""
    width: int = 64
    """Channels of the first stage; 64 is the published network."""

    def __post_init__(self) -> None:
        check_size("classes", self.classes, smallest=2, largest=100_000)
        check_size("width", self.width, largest=1024)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, channels: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(
                # No bias: the batch norm that follows has one.
                conv1=nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
                norm1=nn.BatchNorm2d(out),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(out, out, 3, padding=1, bias=False),
                norm2=nn.BatchNorm2d(out),
            )
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            projection = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection, norm=nn.BatchNorm2d(out)))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(body(x) + shortcut(x)) (He et al. 2016, equations 1 and 2)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Classifies log-Mel spectrograms (B, 1, M, F) into logits (B, C); M and F at least 16."""

    def __init__(self, classes: int = 4, width: int = 64) -> None:
        super().__init__()
        self.settings = ResNetSettings(classes=classes, width=width)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(1, width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(2),
        )
        channels = width
        for stage, multiple in enumerate(STAGES, start=1):
            for block in range(1, BLOCKS + 1):
                out, halves = multiple * width, stage > 1 and block == 1
                layers[f"block{stage}_{block}"] = BasicBlock(channels, out, stride=1 + halves)
                channels = out
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @typed
    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled embedding (B, 8 * width) of spectrograms (B, 1, M, F)."""
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < SMALLEST:
            raise ShapeError("x", x.shape, f"(B, 1, M, F) with M and F of at least {SMALLEST}")
        check_type("x", x.dtype, self.head.weight)
        pooled: Tensor = self.features(x).mean(dim=(2, 3))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of spectrograms (B, 1, M, F)."""
        logits: Tensor = self.head(self.embed(x))
        return logits
