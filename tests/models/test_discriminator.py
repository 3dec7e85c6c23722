from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from servax.errors import SettingError, ShapeError
from servax.models import Discriminator, DiscriminatorSettings

SMALL = DiscriminatorSettings(channels=(2, 3), hidden=(8, 4))


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_the_paper_has_five_convolutions_and_four_linear_layers():
    network = Discriminator()
    assert len(network.convolutions) == 5
    linear = [module for module in network.head if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [4096, 1024, 64, 1]
    assert linear[0].in_features == 256


@pytest.mark.parametrize("size", [(64, 373), (64, 100), (5, 7), (1, 1)])
def test_one_logit_per_spectrogram_of_any_size(size):
    assert Discriminator(SMALL)(draw(3, 1, *size)).shape == (3,)


def test_logits_equal_a_transcription():
    network = Discriminator(SMALL).eval()
    x = draw(2, 1, 9, 14)
    hidden = x
    for layer in network.convolutions:
        main = nn.functional.conv2d(
            hidden, layer.convolution.weight, layer.convolution.bias, stride=2, padding=1
        )
        kernel = layer.shortcut.weight[:, :, 0, 0]
        beside = torch.einsum("oc,bcmf->bomf", kernel, hidden[:, :, ::2, ::2])
        beside = beside + layer.shortcut.bias[:, None, None]
        hidden = torch.where(main > 0, main, 0.2 * main) + beside
    hidden = hidden.flatten(2).mean(dim=2)
    for number in (0, 2):
        hidden = hidden @ network.head[number].weight.T + network.head[number].bias
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    last = network.head[4]
    expected = hidden @ last.weight[0] + last.bias
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)


def test_settings_come_back_from_lists():
    assert DiscriminatorSettings(channels=[2, 3], hidden=[8, 4]) == SMALL


@pytest.mark.parametrize("shape", [(64, 20), (1, 64, 20), (2, 2, 64, 20)])
def test_inputs_of_another_shape_are_refused(shape):
    sentence = f"x has shape {shape}, expected (B, 1, M, F)."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        Discriminator(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"channels": ()}, "channels is (), expected at least one size."),
        ({"channels": (16, 0)}, "channels is 0, expected a whole number in [1, 65536]."),
        ({"hidden": (10**9,)}, "hidden is 1000000000, expected a whole number in [1, 65536]."),
    ],
)
def test_settings_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        DiscriminatorSettings(**settings)
