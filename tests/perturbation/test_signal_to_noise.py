from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from servax.errors import SettingError
from servax.perturbation import L2, SignalToNoise


def sounds(batch=4, samples=900, seed=0):
    draws = torch.Generator().manual_seed(seed)
    loudness = torch.tensor([1e-4, 0.01, 0.1, 0.3])[:batch, None]
    x = torch.randn(batch, samples, generator=draws) * loudness
    return x.clamp(-1, 1), torch.randn(batch, samples, generator=draws) * 0.02


@pytest.mark.parametrize("decibels", [-3.0, 0.0, 20.0, 45.5])
def test_a_projection_is_the_nearest_change_of_at_least_the_ratio(decibels):
    x, change = sounds()
    projected = SignalToNoise(decibels).around(x).project(change).double().numpy()
    for clean, wanted, got in zip(
        x.double().numpy(), change.double().numpy(), projected, strict=True
    ):
        radius = np.linalg.norm(clean) / 10 ** (decibels / 20)
        expected = wanted * min(1.0, radius / np.linalg.norm(wanted))
        np.testing.assert_allclose(got, expected, rtol=2e-6)
        ratio = 10 * np.log10(np.sum(clean**2) / np.sum(got**2))
        assert ratio >= decibels - 1e-5


def test_norms_directions_and_draws_are_counted_in_radii():
    x, change = sounds()
    ball = SignalToNoise(20.0).around(x)
    assert ball.radius == 1.0
    length = np.linalg.norm(x.numpy(), axis=1) / 10
    np.testing.assert_allclose(
        ball.norm(change), np.linalg.norm(change.numpy(), axis=1) / length, rtol=1e-5
    )
    step = ball.steepest(change)
    np.testing.assert_allclose(ball.norm(step), np.ones(4), rtol=1e-5)
    np.testing.assert_allclose(step, L2(1.0).steepest(change).numpy() * length[:, None], rtol=1e-5)
    drawn = ball.sample(x, torch.Generator().manual_seed(1))
    assert bool((ball.norm(drawn) <= 1.0).all())
    assert torch.equal(drawn, ball.sample(x, torch.Generator().manual_seed(1)))


def test_silence_may_not_change():
    x, change = sounds()
    x[1] = 0.0
    ball = SignalToNoise(0.0).around(x)
    assert bool((ball.project(change)[1] == 0).all())
    assert bool((ball.project(torch.zeros_like(x)) == 0).all())
    assert bool((ball.steepest(change)[1] == 0).all())
    assert ball.norm(change)[1] == math.inf
    assert ball.norm(torch.zeros_like(x)).tolist() == [0.0] * 4


@pytest.mark.parametrize("decibels", [math.nan, math.inf])
def test_a_ratio_that_is_no_number_is_refused(decibels):
    sentence = f"the signal-to-noise ratio is {decibels}, expected a finite number of dB."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        SignalToNoise(decibels)
