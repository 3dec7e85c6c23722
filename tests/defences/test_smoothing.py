from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from servax.defences import Certificate, Smoothed, certify, certify_sound
from servax.defences.certificates import ABSTAIN, lower_bound
from servax.errors import SettingError
from servax.models import evaluating

SIGMA = 0.25


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(weights, bias):
    """Return logits (w.x + b, 0) as a classifier of inputs (B, 1, 2, 3)."""
    layer = nn.Linear(6, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights, [0.0] * 6]))
        layer.bias.copy_(torch.tensor([bias, 0.0]))
    return nn.Sequential(nn.Flatten(), layer)


WEIGHTS, BIAS = [3.0, -1.0, 2.0, 0.5, -2.5, 1.0], 0.3
LENGTH = math.sqrt(sum(w * w for w in WEIGHTS))


def inputs(distances):
    """Return inputs at signed distances from the boundary of `linear(WEIGHTS, BIAS)`."""
    direction = torch.tensor(WEIGHTS) / LENGTH
    start = -BIAS / LENGTH * direction
    return torch.stack([start + d * direction for d in distances]).view(-1, 1, 2, 3)


DISTANCES = [0.02, 0.1, 0.3, 0.6, -0.05, -0.4, -2.0]


def given(**changes):
    settings = {
        "standard_deviation": SIGMA,
        "draws_to_select": 200,
        "draws_to_estimate": 4_000,
        "alpha": 0.001,
        "generator": seeded(),
        "batch_size": 1_000,
    }
    return settings | changes


def test_the_radius_of_a_linear_classifier_is_its_distance_from_the_boundary():
    # Smoothing moves no linear boundary, so the true radius is the distance (Cohen, appendix B).
    model = linear(WEIGHTS, BIAS)
    found = certify(model, inputs(DISTANCES), **given())
    truth = torch.tensor(DISTANCES).abs().double()
    # The last one is so far that no draw crosses: then only the number of draws limits it.
    most = SIGMA * stats.norm.ppf(0.001 ** (1 / 4_000))
    for distance, prediction, radius in zip(DISTANCES, found.prediction, found.radius, strict=True):
        if prediction != ABSTAIN:
            assert prediction == (0 if distance > 0 else 1)
            assert 0 < radius <= abs(distance)
            # The bound of 4000 draws lies about 3.1 standard errors below.
            chance = stats.norm.cdf(abs(distance) / SIGMA)
            loose = 6.5 * math.sqrt(chance * (1 - chance) / 4_000)
            expected = SIGMA * stats.norm.ppf(max(0.5, chance - loose))
            assert radius >= min(expected, most) - 1e-3
    assert found.radius[-1] == pytest.approx(most)
    assert found.abstained.sum() <= 1
    assert (found.radius <= truth).all()


def test_more_draws_approach_the_true_radius():
    x = inputs([0.3])
    model = linear(WEIGHTS, BIAS)
    radii = [
        float(certify(model, x, **given(draws_to_estimate=draws)).radius[0])
        for draws in (100, 1_000, 100_000)
    ]
    assert radii[0] < radii[1] < radii[2] < 0.3
    assert radii[2] > 0.29


def test_certificates_are_wrong_no_more_often_than_alpha():
    model, x = linear(WEIGHTS, BIAS), inputs([0.2]).expand(400, 1, 2, 3)
    found = certify(
        model, x, **given(draws_to_select=10, draws_to_estimate=200, alpha=0.1, batch_size=200)
    )
    wrong = int(((found.prediction == 1) | (found.radius > 0.2)).sum())
    assert stats.binomtest(wrong, 400, 0.1, alternative="greater").pvalue > 1e-3
    assert wrong > 10  # nor is the bound so loose that it never fails


def test_an_input_on_the_boundary_is_not_decided():
    found = certify(linear(WEIGHTS, BIAS), inputs([0.0]).expand(5, 1, 2, 3), **given())
    assert found.prediction.tolist() == [ABSTAIN] * 5
    assert found.radius.tolist() == [0.0] * 5
    assert found.abstained.all()


class Scripted(nn.Module):
    """Answers with given classes, one after the other, whatever it hears."""

    def __init__(self, answers, classes):
        super().__init__()
        self.answers, self.classes, self.sizes = list(answers), classes, []

    def forward(self, x):
        assert not self.training
        self.sizes.append(len(x))
        rows = [self.answers.pop(0) for _ in x]
        return torch.eye(self.classes)[rows]


def test_the_class_is_chosen_by_the_first_draws_and_bounded_by_the_others():
    # Class 2 wins the first 7 draws; in the next 20 it has 17 votes. Those of the selection
    # must not count again.
    model = Scripted([2] * 4 + [1] * 3 + [2] * 17 + [0] * 3, 4).train()
    settings = given(draws_to_select=7, draws_to_estimate=20, alpha=0.05, batch_size=8)
    found = certify(model, torch.zeros(1, 3), **settings)
    interval = stats.binomtest(17, 20, alternative="greater").proportion_ci(0.95, method="exact")
    assert found.prediction.tolist() == [2]
    assert float(found.radius[0]) == pytest.approx(SIGMA * stats.norm.ppf(interval.low))
    assert model.sizes == [7, 8, 8, 4]
    assert not model.answers
    assert model.training


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize(("hits", "draws"), [(0, 10), (1, 10), (73, 100), (999, 1_000), (50, 50)])
def test_the_bound_is_scipys_exact_interval(hits, draws, alpha):
    test = stats.binomtest(hits, draws, alternative="greater")
    expected = test.proportion_ci(1 - alpha, method="exact").low
    assert lower_bound(hits, draws, alpha) == pytest.approx(expected, abs=1e-12)


def test_certificates_repeat_with_their_seed_and_leave_the_global_state_alone():
    model, x = linear(WEIGHTS, BIAS), inputs([0.1, 0.3])
    state = torch.random.get_rng_state()
    first, second, other = (
        certify(model, x, **given(generator=seeded(seed))).radius for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_certified_accuracy_counts_what_is_right_and_certified_beyond_the_radius():
    certificate = Certificate(
        prediction=torch.tensor([0, 1, ABSTAIN, 1]),
        radius=torch.tensor([0.3, 0.1, 0.0, 0.4], dtype=torch.float64),
    )
    y = torch.tensor([0, 1, 0, 0])
    assert certificate.certified_accuracy(y, 0.0) == 0.5
    assert certificate.certified_accuracy(y, 0.2) == 0.25
    assert certificate.certified_accuracy(y, 0.3) == 0.0


# Sound: noise and changes as signal-to-noise ratios


def plane(length, seed=0):
    """Return a classifier of waveforms (B, T) by the side of a plane through silence."""
    normal = torch.randn(length, generator=seeded(seed), dtype=torch.float64)
    layer = nn.Linear(length, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.stack([normal / normal.norm(), torch.zeros(length)]))
    return layer, normal / normal.norm()


def for_sound():
    settings = given(draws_to_select=100, noise_db=10.0)
    del settings["standard_deviation"]
    return settings


def sound_at(normal, sine, length=0.3, seed=1):
    """Return a sound (1, T) that leaves the plane of a normal (T,) under an angle of this sine."""
    other = torch.randn(len(normal), generator=seeded(seed), dtype=torch.float64)
    other -= (other @ normal) * normal
    direction = sine * normal + math.sqrt(1 - sine**2) * other / other.norm()
    return length * direction[None]


@pytest.mark.parametrize("sine", [0.05, 0.1, -0.2])
def test_a_sounds_certificate_is_below_the_change_that_moves_a_plane(sine):
    # The smallest change that crosses a plane through silence is |x| sin(angle); noise moves none.
    model, normal = plane(8)
    settings = for_sound()
    found = certify_sound(model, sound_at(normal, sine), **settings)
    assert found.prediction.tolist() == [0 if sine > 0 else 1]
    assert 0 < float(found.radius) < abs(sine)
    assert float(found.radius) > 0.75 * abs(sine)  # nor does it give away much
    assert float(found.snr_db) == pytest.approx(-20 * math.log10(float(found.radius)))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6, 0.95])
def test_no_change_moves_the_direction_of_a_sound_further_than_is_counted(share):
    """By brute force over all changes of a length, of all angles to the sound."""
    angles = np.linspace(0, math.pi, 100_001)
    moved = np.array([1 + share * np.cos(angles), share * np.sin(angles)])
    furthest = np.linalg.norm(moved / np.linalg.norm(moved, axis=0) - [[1], [0]], axis=0).max()
    assert furthest * math.sqrt(1 - furthest**2 / 4) == pytest.approx(share, rel=1e-6)


def test_loudness_changes_no_certificate_and_more_samples_cost_decibels():
    model, normal = plane(8)
    settings = for_sound()
    radii = [
        float(
            certify_sound(
                model, gain * sound_at(normal, 0.1), **settings | {"generator": seeded()}
            ).radius
        )
        for gain in (1.0, 1e-3, 50.0)
    ]
    assert radii[0] == pytest.approx(radii[1]) == pytest.approx(radii[2])
    # Where no draw errs, the bound is sigma Phi^-1(p) with sigma = 10^(-dB / 20) / sqrt(T).
    for count in (8, 800):
        sure = certify_sound(
            Scripted([0] * 4_100, 2), torch.ones(1, count), **settings | {"noise_db": 20.0}
        )
        chord = 0.1 / math.sqrt(count) * stats.norm.ppf(0.001 ** (1 / 4_000))
        assert float(sure.radius) == pytest.approx(chord * math.sqrt(1 - chord**2 / 4))


def test_what_is_silent_or_no_ratio_has_no_certificate():
    model, _ = plane(8)
    settings = for_sound()
    with pytest.raises(SettingError, match="x is 'silent', expected sound"):
        certify_sound(model, torch.zeros(1, 8), **settings)
    with pytest.raises(SettingError, match=r"noise_db is 91\.0, expected a ratio in"):
        certify_sound(model, torch.ones(1, 8), **settings | {"noise_db": 91.0})


def test_a_smoothed_classifier_is_the_logarithm_of_the_mean_probability():
    model, x = linear(WEIGHTS, BIAS).double(), inputs(DISTANCES).double()
    found = Smoothed(model, SIGMA, 5, seeded(4))(x)
    draws = seeded(4)
    probabilities = np.zeros((len(x), 2))
    for _ in range(5):
        noise = torch.randn(x.shape, generator=draws, dtype=x.dtype)
        logits = model(x + SIGMA * noise).detach().numpy()
        powers = np.exp(logits)
        probabilities += powers / powers.sum(1, keepdims=True) / 5
    np.testing.assert_allclose(found.detach().numpy(), np.log(probabilities), atol=1e-12)


def test_a_smoothed_linear_classifier_tends_to_its_closed_form():
    # E[sigmoid(m + s z)] by quadrature, for the logit m and its deviation s under the noise.
    model, x = linear(WEIGHTS, BIAS).double(), inputs([0.1]).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = 0.1 * LENGTH + SIGMA * LENGTH * nodes
    expected = (weights / (1 + np.exp(-logits))).sum() / weights.sum()
    found = Smoothed(model, SIGMA, 4_000, seeded())(x).exp()[0, 0]
    assert float(found.detach()) == pytest.approx(expected, abs=0.02)


def test_a_smoothed_classifier_has_exact_gradients_per_draw_and_is_random():
    model, x = linear(WEIGHTS, BIAS).double(), inputs([0.1, -0.2]).double()
    assert torch.autograd.gradcheck(
        lambda z: Smoothed(model, SIGMA, 3, seeded(1))(z), (x.requires_grad_(True),)
    )
    smoothed = Smoothed(model, SIGMA, 3, seeded(1))
    first = smoothed(x)
    assert not torch.equal(smoothed(x), first)
    assert torch.equal(Smoothed(model, SIGMA, 3, seeded(1))(x), first)
    assert smoothed.knowledge == "adaptive"
    with evaluating(smoothed):
        assert not model.training


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"standard_deviation": 0.0}, "standard_deviation is 0.0, expected a finite number above"),
        ({"standard_deviation": math.inf}, "standard_deviation is inf, expected a finite number"),
        ({"draws_to_select": 0}, "draws_to_select is 0, expected a whole number of at least 1."),
        ({"draws_to_estimate": 0}, "draws_to_estimate is 0, expected a whole number of at least"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number of at least 1."),
        ({"alpha": 1.0}, "alpha is 1.0, expected a probability in (0, 1)."),
    ],
)
def test_certify_refuses(changes, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
        certify(linear(WEIGHTS, BIAS), inputs([0.1]), **given(**changes))


@pytest.mark.parametrize(
    ("deviation", "draws", "sentence"),
    [
        (-1.0, 2, "standard_deviation is -1.0, expected a finite number above 0."),
        (0.1, 0, "draws is 0, expected a whole number of at least 1."),
    ],
)
def test_a_smoothed_classifier_refuses(deviation, draws, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        Smoothed(nn.Identity(), deviation, draws, seeded())
