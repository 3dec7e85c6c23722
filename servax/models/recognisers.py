"""Networks that classify spectrograms: VGG-16, ResNet-18, CRNN.

All map log-Mels (B, 1, M, F) on [0, 1] to logits (B, C) and are built from two settings. Their
convolutions have no bias, since the batch norm that follows has one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features import check_type
from servax.kinds import Choice, check_size, typed
from servax.models.classifier import Layers

Parts = OrderedDict[str, nn.Module]


@dataclass(frozen=True)
class RecogniserSettings:
    """What rebuilds a recogniser's network."""

    classes: int = 4
    """Number of emotions."""
    width: int = 64
    """Channels of the first layers; 64 is the published network, 16 trains ten times faster."""

    def __post_init__(self) -> None:
        check_size("classes", self.classes, smallest=2, largest=100_000)
        check_size("width", self.width, largest=1024)


class RecogniserNetwork(nn.Module):
    """Layers that keep time and frequency, something that pools them, one linear layer.

    A kind of network says its layers and how it pools.

    Args:
        classes: Number of emotions.
        width: Channels of the first layers.
    """

    smallest: ClassVar[int]
    """Fewest Mel bins and frames that its layers do not shrink to nothing."""

    def __init__(self, classes: int = 4, width: int = 64) -> None:
        super().__init__()
        self.settings = RecogniserSettings(classes=classes, width=width)
        layers, channels = self._layers(width)
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(self._add_pooling(channels), classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def _layers(self, width: int) -> tuple[Parts, int]:
        """Return the layers by name, and the channels of the last."""
        raise NotImplementedError

    def _add_pooling(self, channels: int) -> int:
        """Add what pools, if it has weights, and return the size of an embedding."""
        return channels

    def _pooled(self, features: Tensor) -> Tensor:
        """Return the embedding (B, D) of features (B, channels, M', F')."""
        raise NotImplementedError

    @typed
    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled embedding (B, 8 * width) of spectrograms (B, 1, M, F)."""
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < self.smallest:
            expected = f"(B, 1, M, F) with M and F of at least {self.smallest}"
            raise ShapeError("x", x.shape, expected)
        check_type("x", x.dtype, self.head.weight)
        return self._pooled(self.features(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of spectrograms (B, 1, M, F)."""
        logits: Tensor = self.head(self.embed(x))
        return logits


def _convolution(name: str, channels: int, out: int) -> Parts:
    """Return a 3x3 convolution, its batch norm and ReLU, with `name` behind their own."""
    layers: Parts = OrderedDict()
    layers[f"conv{name}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    layers[f"norm{name}"] = nn.BatchNorm2d(out)
    layers[f"relu{name}"] = nn.ReLU(inplace=True)
    return layers


VGG_BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""(channels as a multiple of the width, convolutions) of each block."""
TAPS = tuple(
    name
    for block, (_, convolutions) in enumerate(VGG_BLOCKS, start=1)
    for name in (*(f"conv{block}_{i}" for i in range(1, convolutions + 1)), f"pool{block}")
)
"""Places where features can be read: after the ReLU of a convolution, or after a pooling."""


class VGG16(RecogniserNetwork):
    """VGG-16 with named taps (Simonyan & Zisserman 2015; Ren et al. 2020, [18]).

    Five blocks of 3x3 convolutions with batch norm and ReLU after each, 2x2 max-pooling after each
    block, global max pooling. The paper uses it as the target SER model and, separately trained, as
    the feature extractor of SSA and of L_feat. 14.72 M parameters at width 64 and four classes.
    """

    smallest = 32

    def _layers(self, width: int) -> tuple[Parts, int]:
        layers, channels = OrderedDict[str, nn.Module](), 1
        for block, (multiple, convolutions) in enumerate(VGG_BLOCKS, start=1):
            for i in range(1, convolutions + 1):
                layers |= _convolution(f"{block}_{i}", channels, multiple * width)
                channels = multiple * width
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        return layers, channels

    def _pooled(self, features: Tensor) -> Tensor:
        return torch.amax(features, dim=(2, 3))


def feature_extractor(network: VGG16, tap: str) -> nn.Sequential:
    """Return the layers of `network` up to `tap` and no further; weights are shared.

    Args:
        network: The trained network.
        tap: One of `TAPS`; ``conv3_3`` is read after its ReLU, as NRP does (Naseer et al. 2020).

    Raises:
        SettingError: `tap` is not one of `TAPS`.
    """
    Choice(TAPS).check("tap", tap)
    names = list(network.features._modules)
    kept = names[: names.index(tap.replace("conv", "relu")) + 1]
    return Layers(OrderedDict((name, network.features.get_submodule(name)) for name in kept))


STAGES = (1, 2, 4, 8)
"""Channels of each stage of a ResNet as a multiple of its width; all but the first halve."""
BLOCKS_OF_A_STAGE = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, channels: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(
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


class ResNet(RecogniserNetwork):
    """ResNet-18 (He et al. 2016, table 1 and figure 5 left).

    A stem, four stages of two basic blocks, global average pooling. Differs in the stem, which is
    one 3x3 convolution and a 2x2 max-pooling: a spectrogram of 64 Mel bins would leave a 7x7
    convolution of stride 2 and its pooling with too few of them. 11.17 M parameters at width 64 and
    four classes, .70 M at width 16.
    """

    smallest = 16

    def _layers(self, width: int) -> tuple[Parts, int]:
        layers, channels = _convolution("", 1, width), width
        layers["pool"] = nn.MaxPool2d(2)
        for stage, multiple in enumerate(STAGES, start=1):
            for block in range(1, BLOCKS_OF_A_STAGE + 1):
                out, halves = multiple * width, stage > 1 and block == 1
                layers[f"block{stage}_{block}"] = BasicBlock(channels, out, stride=1 + halves)
                channels = out
        return layers, channels

    def _pooled(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


CRNN_BLOCKS = ((1, (2, 2)), (2, (2, 2)), (4, (2, 1)), (4, (2, 1)))
"""(channels as a multiple of the width, pooling over (Mel bins, frames)) of each convolution."""
DROPOUT = 0.3
"""Share of the activations dropped before the GRU and before the linear layer, in training."""


class CRNN(RecogniserNetwork):
    """A convolutional recurrent network (Chen et al. 2018, "3-D CRNNs").

    Convolutions read the spectrogram, a bidirectional GRU reads the frames that they leave,
    attention weighs the frames. Differs from its source: log-Mel without deltas, four 3x3
    convolutions with batch norm, a GRU instead of an LSTM, and the highest activation over Mel bins
    instead of all of them, so that any number of bins will do. 1.75 M parameters at width 64 and
    four classes, .11 M at width 16.
    """

    smallest = 16

    def _layers(self, width: int) -> tuple[Parts, int]:
        layers, channels = OrderedDict[str, nn.Module](), 1
        for block, (multiple, pooling) in enumerate(CRNN_BLOCKS, start=1):
            layers |= _convolution(f"{block}", channels, multiple * width)
            layers[f"pool{block}"] = nn.MaxPool2d(pooling)
            channels = multiple * width
        return layers, channels

    def _add_pooling(self, channels: int) -> int:
        self.dropout = nn.Dropout(DROPOUT)
        self.gru = nn.GRU(channels, channels, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * channels, 1)
        return 2 * channels

    def _pooled(self, features: Tensor) -> Tensor:
        highest = torch.amax(features, dim=2)  # (B, 4 * width, F / 4)
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


NetworkName = Literal["vgg16", "resnet", "crnn"]
"""Recognisers by the name that options and recipes give them."""
RECOGNISERS: Mapping[str, type[RecogniserNetwork]] = {
    "vgg16": VGG16,
    "resnet": ResNet,
    "crnn": CRNN,
}
