from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from servax.defences import Detector, MeanFilter, threshold_at
from servax.errors import SettingError, ShapeError


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model():
    layer = nn.Linear(30, 3).double()
    with torch.no_grad():
        layer.weight.copy_(4 * draw(3, 30, seed=1) - 2)
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def slow_score(score, x, purified, model):
    if score == "residual":
        return [np.abs(a - b).mean() for a, b in zip(x.numpy(), purified.numpy(), strict=True)]
    p, q = (model(z).detach().softmax(1).numpy() for z in (x, purified))
    if score == "l1":
        return np.abs(p - q).sum(1)
    return [stats.entropy(a, b) for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize("score", ["residual", "l1", "kl"])
def test_scores_are_those_of_the_formula_and_gradients_are_exact(score, model):
    x = draw(4, 1, 5, 6)
    purifier = MeanFilter(3)
    detector = Detector(purifier, model, score=score)
    expected = slow_score(score, x, purifier(x), model)
    np.testing.assert_allclose(detector(x).detach().numpy(), expected, atol=1e-12)
    assert detector.knowledge == "adaptive"
    assert torch.autograd.gradcheck(detector, (x[:1].clone().requires_grad_(True),))


def test_the_residual_needs_no_model():
    x = draw(2, 1, 5, 6)
    assert torch.equal(Detector(nn.Identity())(x), torch.zeros(2).double())


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29, 0.999])
@pytest.mark.parametrize("ties", [False, True])
def test_the_threshold_flags_at_most_the_rate_of_clean_inputs(rate, ties):
    scores = np.random.default_rng(0).normal(size=100).astype(np.float32)
    scores = scores.round(1) if ties else scores
    threshold = threshold_at(scores, rate)
    assert np.mean(scores > threshold) <= rate + 1e-12
    # And none is lower: at the next lower score, more would be flagged.
    lower = scores[scores < threshold]
    if lower.size:
        assert np.mean(scores > lower.max()) > rate


def test_a_calibrated_detector_tells_noisy_inputs_from_smooth_ones():
    smooth = draw(50, 1, 1, 1).expand(50, 1, 8, 8) + 0.01 * draw(50, 1, 8, 8, seed=1)
    noisy = smooth + 0.1 * draw(50, 1, 8, 8, seed=2)
    detector = Detector(MeanFilter(3))
    threshold = detector.calibrate(detector(smooth), 0.1)
    assert detector.threshold == threshold
    assert int(detector.flags(smooth).sum()) == 5
    assert detector.flags(noisy).all()


@pytest.mark.parametrize(
    ("run", "error", "sentence"),
    [
        (
            lambda: Detector(nn.Identity(), score="residuals"),
            SettingError,
            "score is 'residuals', expected one of kl, l1, residual. Did you mean 'residual'?",
        ),
        (
            lambda: Detector(nn.Identity(), score="kl"),
            SettingError,
            "model is None, expected a classifier, which the score 'kl' asks.",
        ),
        (
            lambda: Detector(nn.Identity(), threshold=math.nan),
            SettingError,
            "threshold is nan, expected a finite number, or None.",
        ),
        (
            lambda: Detector(nn.Identity()).flags(torch.zeros(1, 2)),
            SettingError,
            "threshold is None, expected a number: give one, or call calibrate with clean scores.",
        ),
        (
            lambda: threshold_at([1.0], 1.0),
            SettingError,
            "false_positive_rate is 1.0, expected a share in [0, 1).",
        ),
        (
            lambda: threshold_at([1.0, math.inf], 0.1),
            SettingError,
            "clean_scores is 'not finite', expected scores without NaN or infinity.",
        ),
        (
            lambda: threshold_at([], 0.1),
            ShapeError,
            "clean_scores has shape (0,), expected (N,): one score per input, N >= 1.",
        ),
    ],
)
def test_what_it_refuses(run, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        run()
