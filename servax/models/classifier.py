"""What a classifier is to this library: any module from inputs to logits; and which class it says.

`classes_of` is the one place that turns logits into classes. The largest of NaNs is class 0 to
`argmax`. So an answer without a largest finite logit is refused: unseen, a broken model would be
scored, and pass for right about that class.

`frozen` makes a copy of a trained network that runs faster. In evaluation mode a batch norm is an
affine map, so it can be multiplied into the convolution before it: the same function up to float
rounding, one pass over memory less per layer. Max pooling goes before the ReLU in front of it
(`Layers`). With channels-last memory a gradient with respect to the input costs about half of the
trained network's on a CPU (benchmarks/notes.md).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from servax.errors import ServaxError
from servax.features import check_waveforms
from servax.kinds import check, typed

Network = TypeVar("Network", bound=nn.Module)
NARROW = 8
"""Input channels from which on the fault of `channels_last` was not seen."""


def classes_of(logits: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Return the classes (B,) that logits (B, C) say; minus infinity is a class ruled out.

    Args:
        logits: What the model answered.
        names: What the utterances are called, for the refusal.

    Raises:
        ServaxError: A logit is NaN, or the largest one of an utterance is infinite.
    """
    largest, classes = logits.max(dim=1)
    check_finite(largest, "logits", names)
    return classes


def check_finite(values: Tensor, what: str, names: Sequence[str] = ()) -> None:
    """Refuse answers of which a value is NaN or infinite.

    Args:
        values: One that tells of each answer, (B,).
        what: The answers are.
        names: What the utterances are called.

    Raises:
        ServaxError: One is; the first utterance is told.
    """
    broken = ~values.isfinite()
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        which = f"utterance {names[row]}" if len(names) else f"input {row}"
        raise ServaxError(
            f"the model's output for {which} is NaN or infinite ({int(broken.sum())} of "
            f"{len(values)} in its batch), expected finite {what}: check the model's weights, its "
            "precision and the range of the input."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode inside the block, and each of its parts back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class WaveformClassifier(nn.Module):
    """Maps waveforms (B, T) to logits (B, C), differentiably.

    Args:
        logmel: From (B, T) to what `classifier` takes, e.g. ``nn.Sequential(front_end, scale)``.
        classifier: From (B, 1, M, F) to logits (B, C).
    """

    @typed
    def __init__(self, logmel: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.logmel = logmel
        self.classifier = classifier

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        check_waveforms(waveform)
        # A copy, since the classifier may write into what it is given.
        logits: Tensor = self.classifier(self.logmel(waveform).clone())
        return logits


def frozen(network: Network) -> Network:
    """Return a copy of `network` in evaluation mode, folded, without parameter gradients."""
    check("network", network, "nn.Module")
    twin = copy.deepcopy(network).eval()
    for module in list(twin.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Sequential:
                module.register_module(name, Layers(OrderedDict(child._modules)))
    twin.eval()  # what stands in the place of a batch norm is new
    twin.requires_grad_(False)
    return channels_last(twin)


def _fold(layers: nn.Sequential) -> None:
    for name, following in pairwise(list(layers._modules)):
        convolution, norm = layers.get_submodule(name), layers.get_submodule(following)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers.register_module(name, fuse_conv_bn_eval(convolution, norm))
            layers.register_module(following, nn.Identity())


class Layers(nn.Sequential):
    """`nn.Sequential` with the same layers, names and outputs, in less time.

    Max pooling goes before the ReLU in front of it. The two commute: the largest element of a
    window is the same before and after negative ones become zero, and so is the place its gradient
    goes to; a ReLU after the pooling touches a quarter of the elements. Outputs and gradients keep
    every bit (tested).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return what the last layer returns for input (B, ...)."""
        waiting: nn.Module | None = None
        for layer in self:
            if waiting is not None and not isinstance(layer, nn.MaxPool2d):
                x, waiting = waiting(x), None
            if isinstance(layer, nn.ReLU):
                waiting = layer
                continue
            x = layer(x)
        return x if waiting is None else waiting(x)


def channels_last(network: Network) -> Network:
    """Return `network` itself, its weights laid out channels last: CPUs compute that faster.

    A network with a strided 1x1 convolution of fewer than 8 input channels (a ResNet of width below
    8) is left as it is: on processors with AVX2 alone, oneDNN 3.12 of torch 2.13 writes beyond the
    gradient of its input, and the process dies.
    """
    strided = (
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) != module.stride
    )
    if not any(module.in_channels < NARROW for module in strided):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
