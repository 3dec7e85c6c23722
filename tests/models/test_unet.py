from __future__ import annotations

import re

import pytest
import torch
from torch.nn.functional import conv2d, group_norm, interpolate, pad, silu

from servax.errors import SettingError, ShapeError
from servax.models import UNet, UNetSettings, load_network, save_network


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def drawn(**settings):
    """Return a small U-Net whose last layer is no longer zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(**{"width": 8, "levels": 2, **settings}).eval()
        torch.nn.init.normal_(network.out.weight, std=0.05)
    return network


def test_an_untrained_network_changes_nothing():
    x = draw(2, 1, 64, 50)
    assert torch.equal(UNet(width=8, levels=3)(x), x)


@pytest.mark.parametrize("shape", [(1, 1, 64, 373), (2, 1, 64, 50), (1, 1, 33, 1), (1, 1, 1, 7)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_any_size_keeps_its_shape(shape, patch):
    assert drawn(patch=patch)(draw(*shape)).shape == shape


def test_the_change_stays_within_the_bound():
    x = draw(2, 1, 32, 40)
    free, held = drawn(), drawn(bound=0.01)
    assert (free(x) - x).abs().max() > 0.02
    assert (held(x) - x).abs().max() <= 0.01 + 1e-6


def test_without_residual_the_input_is_not_added():
    x = draw(2, 1, 32, 40)
    torch.testing.assert_close(drawn(residual=False)(x), drawn()(x) - x)


def test_an_utterance_does_not_depend_on_its_batch():
    x = draw(3, 1, 32, 40)
    network = drawn()
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))


def unfold_by_hand(x, patch):
    """Return patches as channels, (B, patch², M / patch, F / patch)."""
    parts = [x[:, 0, i::patch, j::patch] for i in range(patch) for j in range(patch)]
    return torch.stack(parts, dim=1)


def block_by_hand(w, name, x):
    hidden = silu(group_norm(x, 8, w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"]))
    hidden = conv2d(hidden, w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"], padding=1)
    hidden = silu(group_norm(hidden, 8, w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"]))
    return x + conv2d(hidden, w[f"{name}.conv2.weight"], w[f"{name}.conv2.bias"], padding=1)


def test_two_levels_equal_the_formula():
    x, network = draw(2, 1, 8, 12), drawn()
    w = network.state_dict()
    fine = conv2d(unfold_by_hand(x, 2), w["stem.weight"], w["stem.bias"], padding=1)
    fine = block_by_hand(w, "down.0", fine)
    coarse = conv2d(fine, w["halve.0.weight"], w["halve.0.bias"], stride=2)
    coarse = block_by_hand(w, "middle", coarse)
    coarse = conv2d(coarse, w["widen.0.weight"], w["widen.0.bias"])
    raised = interpolate(coarse, scale_factor=2.0, mode="nearest")
    last = block_by_hand(w, "up.0", raised + fine)
    patches = conv2d(last, w["out.weight"], w["out.bias"], padding=1)
    expected = x.clone()
    for i in range(2):
        for j in range(2):
            expected[:, 0, i::2, j::2] += patches[:, 2 * i + j]
    torch.testing.assert_close(network(x), expected)


def test_passes_follow_each_other_every_second_one_half_a_block_further_on():
    network, x = drawn(texture=4, passes=3), draw(2, 1, 40, 55)
    with torch.no_grad():
        first = network(x, only=0)
        further = pad(first.clamp(0, 1), (4, 0, 4, 0), mode="replicate")
        second = network(further, only=0)[..., 4:, 4:]
        torch.testing.assert_close(network(first, only=1), second)
        torch.testing.assert_close(network(x), network(second, only=2))
        torch.testing.assert_close(network.train()(x), first)


def test_it_is_saved_and_read_back(tmp_path):
    network = drawn(bound=0.1)
    save_network(network, tmp_path)
    again = load_network(tmp_path).network
    x = draw(1, 1, 32, 40)
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"width": 12}, "width is 12, expected a multiple of 8"),
        ({"width": 0}, "width is 0, expected a whole number in [1, 1024]"),
        ({"levels": 9}, "levels is 9, expected a whole number in [1, 6]"),
        ({"patch": 0}, "patch is 0, expected a whole number in [1, 16]"),
        ({"bound": -1.0}, "bound is -1.0, expected a number in [0, 1]"),
        ({"residual": 1}, "residual is 1, expected true or false"),
    ],
)
def test_settings_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=re.escape(sentence)):
        UNetSettings(**settings)


def test_what_is_no_spectrogram_is_refused():
    with pytest.raises(ShapeError, match=re.escape("(B, 1, M, F)")):
        UNet(width=8)(draw(2, 64, 50))
