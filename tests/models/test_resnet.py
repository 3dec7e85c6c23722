from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from servax.models import ResNet
from servax.models.recognisers import BasicBlock


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("width", "classes", "expected"), [(64, 4, 11_169_732), (16, 4, 700_404), (16, 7, 700_791)]
)
def test_parameter_count_by_hand(width, classes, expected):
    kernels, norms, channels = 9 * width, 2 * width, width
    for out in (width, 2 * width, 4 * width, 8 * width):
        kernels += 9 * channels * out + 3 * 9 * out * out
        norms += 4 * 2 * out
        if out != channels:
            kernels += channels * out
            norms += 2 * out
        channels = out
    found = count(ResNet(classes=classes, width=width))
    assert found == kernels + norms + channels * classes + classes == expected


def convolve(x, kernels, stride, padding):
    """Return the convolution of x (C, H, W) with kernels (C', C, k, k), one plane at a time."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    planes = [
        sum(correlate2d(plane, kernel, mode="valid") for plane, kernel in zip(x, k, strict=True))
        for k in kernels
    ]
    return np.stack(planes)[:, ::stride, ::stride]


def normalise(x, weights, name):
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def by_hand(weights, x, stride):
    """Return a basic block's output for one utterance (C, H, W), in NumPy."""
    inner = convolve(x, weights["body.conv1.weight"], stride, 1)
    inner = np.maximum(normalise(inner, weights, "body.norm1"), 0)
    inner = normalise(convolve(inner, weights["body.conv2.weight"], 1, 1), weights, "body.norm2")
    if "shortcut.conv.weight" in weights:
        x = convolve(x, weights["shortcut.conv.weight"], stride, 0)
        x = normalise(x, weights, "shortcut.norm")
    return np.maximum(inner + x, 0)


@pytest.mark.parametrize(("channels", "out", "stride"), [(3, 3, 1), (2, 4, 2), (2, 3, 1)])
@pytest.mark.parametrize("size", [(8, 11), (7, 6)])
def test_a_block_equals_a_transcription(channels, out, stride, size):
    draws = torch.Generator().manual_seed(channels + out)
    block = BasicBlock(channels, out, stride=stride).double().eval()
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=draws, dtype=torch.float64)
            value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    x = torch.randn((2, channels, *size), generator=draws, dtype=torch.float64)
    weights = {name: value.numpy() for name, value in block.state_dict().items()}
    expected = np.stack([by_hand(weights, row, stride) for row in x.numpy()])
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_the_shape_of_resnet_18():
    """He et al. 2016, table 1: two blocks of each width, each stage but the first halves."""
    network = ResNet(width=2).eval()
    shapes = []
    for block in network.features.children():
        if isinstance(block, BasicBlock):
            block.register_forward_hook(lambda m, i, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 1, 64, 96))
    stages = [(2, 32, 48), (4, 16, 24), (8, 8, 12), (16, 4, 6)]
    assert shapes == [stage for stage in stages for _ in range(2)]
    # The published 18 layers: 17 convolutions (without the shortcuts') and one linear layer.
    inside = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    assert len([name for name in inside if "shortcut" not in name]) == 17
