from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from servax.errors import ShapeError
from servax.evaluation.distortion import (
    largest_change_db,
    signal_to_noise_ratio,
)
from servax.features import Scale, ScaleSettings, ZScore, ZScoreSettings


def pair(*shape):
    draws = np.random.default_rng(0)
    x = draws.normal(0, 0.1, shape)
    return x, x + draws.normal(0, 1e-3, shape)


@pytest.mark.parametrize("shape", [(3, 500), (2, 1, 6, 8)])
def test_the_ratio_is_numpys(shape):
    x, moved = pair(*shape)
    rows = zip(x.reshape(shape[0], -1), moved.reshape(shape[0], -1), strict=True)
    expected = [10 * np.log10(np.var(a, mean=0) / np.var(b - a, mean=0)) for a, b in rows]
    got = signal_to_noise_ratio(torch.from_numpy(x), torch.from_numpy(moved))
    np.testing.assert_allclose(got, expected)


def test_ratios_of_silence_and_of_no_change():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 0.5]])
    moved = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.5, 0.5]])
    assert signal_to_noise_ratio(x, moved).tolist() == [math.inf, -math.inf, math.inf]


def test_the_largest_change_is_in_db():
    scale = Scale(ScaleSettings(top_db=20.0))
    x = torch.full((2, 1, 64, 5), 0.5)
    moved = x.clone()
    moved[0, 0, 3, 2] += 0.003
    moved[1, 0, 4, 1] -= 0.25
    got = largest_change_db(x, moved, scale)
    assert got.tolist() == pytest.approx(
        [scale.epsilon_db(0.003), scale.epsilon_db(0.25)], rel=1e-4
    )
    by_bin = ZScore(ZScoreSettings(tuple([0.0] * 64), tuple(float(m) for m in range(1, 65))))
    assert float(largest_change_db(x, moved, by_bin)[1]) == pytest.approx(0.25 * 6.67 * 5, rel=1e-4)


def test_what_does_not_belong_together_is_refused():
    x = torch.zeros(2, 10)
    with pytest.raises(ShapeError, match=r"^moved has shape \(2, 9\), expected \(2, 10\), the"):
        signal_to_noise_ratio(x, x[:, 1:])
    with pytest.raises(ShapeError, match=r"^x has shape \(0, 4\), expected \(B, \.\.\.\) with"):
        signal_to_noise_ratio(torch.zeros(0, 4), torch.zeros(0, 4))
