from __future__ import annotations

import pytest
import torch
from torch import nn

from servax.models import CRNN, VGG16, Layers, ResNet, feature_extractor, frozen


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def in_order(layers: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*layers.children())


def output_and_gradient(layers, x):
    leaf = x.clone().requires_grad_(True)
    out = layers(leaf)
    (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
    return out, gradient


@pytest.mark.parametrize("kind", [VGG16, CRNN, ResNet])
def test_pooling_first_keeps_every_bit(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = frozen(kind(width=4)).features
    assert isinstance(layers, Layers)
    x = draw(3, 1, 64, 70)
    for ours, plain in zip(
        output_and_gradient(layers, x), output_and_gradient(in_order(layers), x), strict=True
    ):
        assert torch.equal(ours, plain)


def test_a_relu_is_read_before_the_pooling_that_follows_it():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = VGG16(width=4).eval()
    x = draw(2, 1, 64, 70)
    for tap in ("conv3_3", "pool3", "conv1_1"):
        extractor = feature_extractor(network, tap)
        assert torch.equal(extractor(x), in_order(extractor)(x))


def test_only_a_relu_right_before_a_max_pooling_moves():
    x = draw(2, 4, 8, 8) - 0.5
    for layers in (
        Layers(nn.ReLU(), nn.AvgPool2d(2)),
        Layers(nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid()),
        Layers(nn.MaxPool2d(2), nn.ReLU()),
        Layers(nn.ReLU()),
        Layers(),
    ):
        assert torch.equal(layers(x), in_order(layers)(x))
