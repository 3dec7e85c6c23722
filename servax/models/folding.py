"""A frozen copy of a trained network that runs faster: batch norm folded into convolutions.

In evaluation mode a batch norm is an affine map, so it can be multiplied into the convolution
before it: the same function up to float rounding, one pass over memory less per layer. With
channels-last memory a gradient with respect to the input costs about a third on a CPU.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network) -> Network:
    """Return a copy of `network` in evaluation mode, folded, without parameter gradients."""
    twin = copy.deepcopy(network).eval()
    for module in list(twin.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    twin.eval()  # what stands in the place of a batch norm is new
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _fold(layers: nn.Sequential) -> None:
    names = list(layers._modules)
    for name, following in pairwise(names):
        convolution, norm = layers.get_submodule(name), layers.get_submodule(following)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers.register_module(name, fuse_conv_bn_eval(convolution, norm))
            layers.register_module(following, nn.Identity())
