from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from torch import nn

from servax.errors import SettingError, ShapeError
from servax.models import TAPS, VGG16, RecogniserSettings, feature_extractor

CONVOLUTIONS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def untrained(width=4, classes=4, seed=0):
    """Return a small network whose batch norms are not the identity, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VGG16(classes=classes, width=width)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize(
    ("width", "classes", "millions"), [(64, 4, 14.72), (16, 4, 0.92), (64, 7, 14.72)]
)
def test_parameter_count_by_hand(width, classes, millions):
    channels = [1, *(width * m for m in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8))]
    kernels = sum(9 * a * b for a, b in pairwise(channels))
    norms = sum(2 * c for c in channels[1:])
    head = 8 * width * classes + classes
    found = count(VGG16(classes=classes, width=width))
    assert found == kernels + norms + head
    assert round(found / 1e6, 2) == millions


def test_the_published_network_has_14_719_812_parameters():
    assert count(VGG16()) == 14_719_812


def by_hand(weights, x):
    """Return the logits of VGG-16 written as one loop over functions."""
    for block, convolutions in CONVOLUTIONS.items():
        for i in range(1, convolutions + 1):
            norm = f"features.norm{block}_{i}"
            x = nn.functional.conv2d(x, weights[f"features.conv{block}_{i}.weight"], padding=1)
            mean = weights[f"{norm}.running_mean"][:, None, None]
            variance = weights[f"{norm}.running_var"][:, None, None]
            x = (x - mean) / torch.sqrt(variance + 1e-5)
            x = (
                x * weights[f"{norm}.weight"][:, None, None]
                + weights[f"{norm}.bias"][:, None, None]
            )
            x = x.clamp(min=0.0)
        x = nn.functional.max_pool2d(x, kernel_size=2, stride=2)
    return x.flatten(2).max(dim=2).values @ weights["head.weight"].T + weights["head.bias"]


@pytest.mark.parametrize("size", [(64, 373), (64, 40), (33, 95)])
def test_logits_equal_a_transcription(size):
    network = untrained()
    x = draw(3, 1, *size)
    torch.testing.assert_close(network(x), by_hand(network.state_dict(), x), rtol=1e-4, atol=1e-5)


def test_embedding_has_8_times_the_width():
    assert untrained(width=4).embed(draw(2, 1, 64, 50)).shape == (2, 32)


def test_taps_are_named_by_block_and_convolution():
    expected = [
        name
        for block, convolutions in CONVOLUTIONS.items()
        for name in [*(f"conv{block}_{i}" for i in range(1, convolutions + 1)), f"pool{block}"]
    ]
    assert list(TAPS) == expected
    assert len(TAPS) == 18


@pytest.mark.parametrize("tap", TAPS)
def test_features_at_a_tap_are_what_passes_there_in_the_whole_network(tap):
    network = untrained()
    x = draw(2, 1, 64, 70)
    passing = []
    place = network.features.get_submodule(tap.replace("conv", "relu"))
    handle = place.register_forward_hook(lambda m, i, output: passing.append(output.clone()))
    network(x)
    handle.remove()
    extractor = feature_extractor(network, tap)
    assert torch.equal(extractor(x), passing[0])
    assert (passing[0] >= 0).all()  # a tap stands after the ReLU


def test_an_extractor_shares_weights_and_holds_no_layer_behind_its_tap():
    network = untrained()
    extractor = feature_extractor(network, "conv3_3")
    assert list(extractor._modules)[-1] == "relu3_3"
    own = {id(parameter) for parameter in network.features.parameters()}
    assert {id(parameter) for parameter in extractor.parameters()} < own
    assert len(list(extractor.parameters())) == 3 * 7  # 7 convolutions: weight, norm's two


def test_conv3_3_of_the_paper_has_256_channels_a_quarter_of_the_size():
    with torch.device("meta"):
        extractor = feature_extractor(VGG16().eval(), "conv3_3")
        assert extractor(torch.empty(2, 1, 64, 373)).shape == (2, 256, 16, 93)


def test_gradients_reach_the_input():
    x = draw(1, 1, 32, 32).requires_grad_(True)
    (gradient,) = torch.autograd.grad(untrained()(x).sum(), x)
    assert gradient.abs().sum() > 0


def test_an_unknown_tap_is_refused():
    sentence = f"tap is 'conv3_4', expected one of {', '.join(sorted(TAPS))}. Did you mean 'conv"
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
        feature_extractor(untrained(), "conv3_4")


@pytest.mark.parametrize(
    "shape", [(64, 373), (2, 64, 373), (2, 3, 64, 373), (2, 1, 31, 64), (2, 1, 64, 31)]
)
def test_inputs_of_another_shape_are_refused(shape):
    sentence = f"x has shape {shape}, expected (B, 1, M, F) with M and F of at least 32."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        untrained()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"classes": 1}, "classes is 1, expected a whole number in [2, 100000]."),
        ({"classes": 4.0}, "classes is 4.0, expected a whole number in [2, 100000]."),
        ({"classes": "4"}, "classes is '4', expected a whole number in [2, 100000]."),
        ({"width": 0}, "width is 0, expected a whole number in [1, 1024]."),
        ({"width": True}, "width is True, expected a whole number in [1, 1024]."),
        ({"width": 10**9}, "width is 1000000000, expected a whole number in [1, 1024]."),
    ],
)
def test_settings_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        RecogniserSettings(**settings)
