from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from servax.defences import Defended, GaussianNoise, MeanFilter, Quantise
from servax.errors import SettingError


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_mean_filter_is_scipys(size):
    x = draw(2, 1, 7, 12)
    expected = ndimage.uniform_filter(x.numpy(), size=(1, 1, size, size), mode="nearest")
    np.testing.assert_allclose(MeanFilter(size)(x).numpy(), expected, atol=1e-12)


def test_mean_filter_by_hand():
    x = torch.tensor([[[[0.0, 0.0, 0.9], [0.0, 0.0, 0.0]]]])
    # The corner .9 stands four times in its own 3x3 neighbourhood: itself, right, above, both.
    assert MeanFilter(3)(x)[0, 0, 0].tolist() == pytest.approx([0.0, 0.2, 0.4])
    assert MeanFilter(3)(x)[0, 0, 1].tolist() == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("size", [3, 5])
def test_mean_filter_has_exact_gradients(size):
    assert torch.autograd.gradcheck(MeanFilter(size), (draw(1, 1, 4, 5).requires_grad_(True),))


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_quantise_rounds_to_its_levels(bits):
    levels = 2**bits - 1
    x = torch.linspace(0, 1, 5_001)
    found = Quantise(bits)(x).numpy().astype(np.float64)
    steps = found * levels
    np.testing.assert_allclose(steps, np.round(steps), atol=levels * 1e-7)
    assert np.abs(found - x.numpy()).max() <= 0.5 / levels + 1e-7
    assert len(np.unique(np.round(steps))) == min(2**bits, 5_001)


def test_quantise_by_hand():
    x = torch.tensor([0.0, 0.49, 0.51, 1.0])
    assert Quantise(1)(x).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert Quantise(2)(torch.tensor([0.2, 0.6])).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_quantise_returns_the_levels_bit_for_bit():
    x = draw(10_000, dtype=torch.float32)
    assert torch.equal(Quantise(4)(x), torch.round(x * 15) / 15)


def test_quantise_passes_the_gradient_as_the_identity_would():
    x = draw(1, 1, 3, 4).requires_grad_(True)
    weights = draw(1, 1, 3, 4, seed=1)
    (gradient,) = torch.autograd.grad((Quantise(4)(x) * weights).sum(), x)
    assert torch.equal(gradient, weights)


def test_noise_is_normal_with_its_standard_deviation():
    x = torch.full((1, 1, 64, 400), 0.5)
    noise = (GaussianNoise(0.05, seeded(0))(x) - x).flatten().numpy()
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    assert noise.mean() == pytest.approx(0.0, abs=0.001)
    assert stats.kstest(noise / 0.05, "norm").pvalue > 0.01


def test_noise_is_drawn_anew_at_each_call_and_repeats_with_its_seed():
    x = torch.full((1, 1, 4, 5), 0.5)
    defence, same = GaussianNoise(0.1, seeded(7)), GaussianNoise(0.1, seeded(7))
    first, second = defence(x), defence(x)
    assert not torch.equal(first, second)
    assert torch.equal(same(x), first)
    assert torch.equal(same(x), second)


def test_noisy_values_stay_in_0_to_1_and_gradients_pass_where_nothing_is_cut():
    x = torch.tensor([[[[0.0, 0.5, 1.0] * 50]]], requires_grad=True)
    noisy = GaussianNoise(0.05, seeded(1))(x)
    assert noisy.detach().min() == 0.0
    assert noisy.detach().max() == 1.0
    (gradient,) = torch.autograd.grad(noisy.sum(), x)
    cut = (noisy == 0.0) | (noisy == 1.0)
    assert torch.equal(gradient, (~cut).float())


@pytest.mark.parametrize(
    ("defence", "knowledge"),
    [
        (MeanFilter(), "adaptive"),
        (GaussianNoise(0.1, seeded(0)), "adaptive"),
        (Quantise(4), "bpda"),
    ],
)
def test_each_says_how_gradients_pass_it(defence, knowledge):
    assert defence.knowledge == knowledge
    x = draw(2, 1, 6, 7, dtype=torch.float32)
    assert defence(x).shape == x.shape
    assert defence(x).dtype == x.dtype


def test_a_defended_model_is_the_defence_and_then_the_model():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 3)).double()
    defended = Defended(model, MeanFilter())
    x = draw(2, 1, 4, 5)
    assert torch.equal(defended(x), model(MeanFilter()(x)))
    assert torch.autograd.gradcheck(defended, (x.requires_grad_(True),))


def test_a_defended_model_follows_the_mode_of_the_whole():
    model = torch.nn.Sequential(torch.nn.Dropout())
    defended = Defended(model, MeanFilter()).eval()
    assert not model.training
    defended.train()
    assert model[0].training


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MeanFilter(2), "size is 2, expected an odd whole number."),
        (lambda: MeanFilter(-1), "size is -1, expected an odd whole number."),
        (lambda: Quantise(0), "bits is 0, expected a whole number in [1, 16]."),
        (lambda: Quantise(17), "bits is 17, expected a whole number in [1, 16]."),
        (
            lambda: GaussianNoise(0.0, seeded(0)),
            "standard_deviation is 0.0, expected a number in (0, 1].",
        ),
        (
            lambda: GaussianNoise(math.nan, seeded(0)),
            "standard_deviation is nan, expected a number in (0, 1].",
        ),
    ],
)
def test_settings_outside_their_rule_are_refused(build, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        build()
