from __future__ import annotations

import pytest
import torch
from torch import nn

from servax.models import VGG16, ResNet, channels_last, frozen


def is_channels_last(network):
    wide = [
        each.weight
        for each in network.modules()
        if isinstance(each, nn.Conv2d) and each.in_channels > 1 and each.kernel_size != (1, 1)
    ]
    return all(each.is_contiguous(memory_format=torch.channels_last) for each in wide)


@pytest.mark.parametrize("network", [VGG16(4, 2), ResNet(4, 8), ResNet(4, 16)])
def test_networks_are_laid_out_channels_last(network):
    assert not is_channels_last(network)
    assert channels_last(network) is network
    assert is_channels_last(network)
    assert is_channels_last(frozen(network))


@pytest.mark.parametrize("width", [2, 4])
def test_narrow_strided_shortcuts_stay_as_they_are(width):
    network = channels_last(ResNet(4, width))
    assert not is_channels_last(network)
    # Where oneDNN has the fault, a few gradients end the process.
    attacked = frozen(network)
    for _ in range(20):
        x = torch.rand(4, 1, 64, 40, requires_grad=True)
        attacked(x).sum().backward()
