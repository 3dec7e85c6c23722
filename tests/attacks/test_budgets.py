"""A budget is a budget: every attack, in every type, measured by NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attack_table import ATTACKS
from torch import nn

from servax.attacks import FGSM, PGD, RandomNoise, Restarts, WaveformPGD
from servax.errors import ServaxError
from servax.perturbation import (
    L2,
    Linf,
    Masked,
    PsychoacousticMask,
    SignalToNoise,
    into_reach,
)
from servax.purifier import SSA, DecisionSSA

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
dtypes = pytest.mark.parametrize("dtype", TYPES, ids=str)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def size(found, x, norm):
    """Return the norm of the change of each utterance, by NumPy in float64."""
    change = (found.double() - x.double()).flatten(1).numpy()
    if norm is Linf:
        return np.abs(change).max(axis=1)
    # Its own sum of squares is rounded by an ulp or two.
    return np.sqrt(np.square(change).sum(axis=1)) * (1 - 1e-15)


def clean(dtype, shape=(4, 1, 5, 7)):
    """Draw inputs over many powers of two, so that neighbours lie at all distances."""
    unit = torch.rand(shape, generator=seeded(1), dtype=torch.float64)
    return torch.where(unit < 0.5, unit, unit**6).to(dtype)


def classifier(dtype, elements=35):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [nn.Flatten(), nn.Linear(elements, 16), nn.Tanh(), nn.Linear(16, 4)]
        return nn.Sequential(*layers).to(dtype)


def said(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


@dtypes
@pytest.mark.parametrize("epsilon", [0.003, 0.02])
@pytest.mark.parametrize(
    ("entry", "norm"),
    [
        pytest.param(entry, norm, id=f"{name} {norm.__name__}")
        for name, entry in ATTACKS.items()
        for norm in (Linf, L2)
    ],
)
def test_no_attack_leaves_its_ball_by_rounding(entry, norm, epsilon, dtype):
    model, x = classifier(dtype), clean(dtype)
    attack = entry.make(norm=norm, epsilon=epsilon, bounds=(0.0, 1.0))
    found = attack(model, x, said(model, x), generator=seeded())
    assert found.dtype == dtype
    assert (size(found, x, norm) <= epsilon).all()
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


@dtypes
@pytest.mark.parametrize("norm", [Linf, L2])
def test_noise_keeps_its_budget(norm, dtype):
    model, x = classifier(dtype), clean(dtype)
    y = said(model, x)
    noise = RandomNoise(norm=norm, epsilon=0.02)(model, x, y, generator=seeded())
    assert (size(noise, x, norm) <= 0.02).all()


@dtypes
@pytest.mark.parametrize("norm", [Linf, L2])
def test_a_sweep_keeps_each_of_its_budgets(norm, dtype):
    model, x = classifier(dtype), clean(dtype)
    epsilons = (0.003, 0.006, 0.02)
    for epsilon, found in FGSM(norm=norm).sweep(model, x, said(model, x), epsilons):
        assert (size(found, x, norm) <= epsilon).all()


@dtypes
@pytest.mark.parametrize("norm", [Linf, L2])
def test_a_masked_ball_keeps_its_budget_and_its_mask(norm, dtype):
    model, x = classifier(dtype), clean(dtype)
    mask = (torch.arange(7) < 4).view(1, 1, 1, 7)
    found = PGD(norm=norm, epsilon=0.02, step=0.01)(model, x, said(model, x), mask=mask)
    assert (size(found, x, norm) <= 0.02).all()
    assert torch.equal(found[..., 4:], x[..., 4:])


@dtypes
@pytest.mark.parametrize("bounds", [(0.1, 0.3), (-0.7, 0.9)])
def test_bounds_that_the_type_does_not_know_are_kept(bounds, dtype):
    model = classifier(dtype)
    # The ends are the rounded bounds, which an input may hold.
    unit = clean(dtype).double()
    x = (
        (bounds[0] + (bounds[1] - bounds[0]) * (1.4 * unit - 0.2).clamp(0, 1))
        .clamp(*bounds)
        .to(dtype)
    )
    allowed = np.maximum(x.double().numpy(), bounds[1]), np.minimum(x.double().numpy(), bounds[0])
    found = PGD(epsilon=0.3, step=0.2, bounds=bounds)(model, x, said(model, x)).double().numpy()
    assert (found <= allowed[0]).all()
    assert (found >= allowed[1]).all()


@dtypes
def test_self_supervised_augmentation_keeps_its_budget(dtype):
    model, x = classifier(dtype), clean(dtype)
    with torch.no_grad():
        features = model(x)
    for budget in (0.02, 0.06):
        found = SSA(epsilon=budget)(model, x, features, seeded())
        assert (size(found, x, Linf) <= budget).all()
        found = DecisionSSA(epsilon=budget, clean_share=0.0)(model, x, features, seeded())
        assert (size(found, x, Linf) <= budget).all()


@dtypes
@pytest.mark.parametrize("sixteen_bit", [True, False])
@pytest.mark.parametrize(
    "masking", [None, PsychoacousticMask(sample_rate=16_000, window_samples=64, hop_samples=16)]
)
def test_waveforms_keep_their_budget(dtype, sixteen_bit, masking):
    x = (1.6 * clean(torch.float64, (3, 200)) - 0.8).to(dtype)
    model = classifier(dtype, 200)
    y = said(model, x)
    settings = {"sixteen_bit": sixteen_bit, "masking": masking, "steps": 6}
    found = WaveformPGD(epsilon=0.003, **settings)(model, x, y)
    assert found.dtype == dtype
    assert (size(found, x, Linf) <= 0.003).all()
    if sixteen_bit:
        assert torch.equal(found.double() * 2**15, (found.double() * 2**15).round())
    found = WaveformPGD(snr_db=20.0, **settings)(model, x, y)
    budgets = np.linalg.norm(x.double().numpy(), axis=1) / 10.0
    assert (size(found, x, L2) <= budgets * (1 + 1e-12)).all()


@dtypes
@pytest.mark.parametrize("kind", [Linf, L2])
def test_reach_holds_wherever_one_wants_to_go(kind, dtype):
    x = clean(dtype, (50, 40))
    for seed, epsilon in enumerate((1e-4, 0.003, 0.02, 0.1, 1.0)):
        far = x + (4 * epsilon * torch.randn(x.shape, generator=seeded(seed))).to(dtype)
        for ball in (kind(epsilon), Masked(kind(epsilon), torch.arange(40) < 30)):
            found = into_reach(x, far, ball, (0.0, 1.0))
            assert (size(found, x, kind) <= epsilon).all()
            assert float(found.min()) >= 0
            assert float(found.max()) <= 1
            again = into_reach(x, found, ball, (0.0, 1.0))
            assert (size(again, x, kind) <= epsilon).all()


@dtypes
def test_the_ball_is_used_up_to_its_last_number(dtype):
    """Rounding towards x gives the outermost number of its type inside, found by search."""
    x = clean(dtype, (1, 300))
    found = into_reach(x, x + 1, Linf(0.02), (-math.inf, math.inf))
    beyond = torch.nextafter(found, torch.full_like(found, math.inf))
    assert ((beyond.double() - x.double()) > 0.02 * (1 - 1e-11)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_what_was_inside_keeps_every_bit(dtype):
    x = clean(dtype, (20, 40))
    moved = x + (0.0199 * (2 * torch.rand(x.shape, generator=seeded()) - 1)).to(dtype)
    plain = (x + (moved - x).clamp(-0.02, 0.02)).clamp(0.0, 1.0)
    assert torch.equal(into_reach(x, moved, Linf(0.02), (0.0, 1.0)), plain)


@dtypes
def test_a_ratio_has_the_radius_that_float64_gives(dtype):
    x = clean(dtype)
    radii = SignalToNoise(20.0).around(x).radii
    np.testing.assert_allclose(
        radii, np.linalg.norm(x.double().flatten(1), axis=1) / 10, rtol=1e-12
    )


class OneUlpTooFar(FGSM):
    """Adds without looking at what rounding does, as attacks of one's own may."""

    share = 1.0

    def iterates(self, problem):
        yield (problem.x + self.share * self.epsilon).clamp(*self.bounds)


class Farther(OneUlpTooFar):
    share = 20.0


@dtypes
def test_rounding_is_taken_back_from_an_attack_that_does_not_look(dtype):
    x, y = clean(dtype, (4, 35)), torch.zeros(4, dtype=torch.int64)
    for epsilon in (0.003, 0.0028, 0.02):
        found = OneUlpTooFar(epsilon=epsilon)(classifier(dtype), x, y)
        assert (size(found, x, Linf) <= epsilon).all()
        assert not torch.equal(found, x)
        ensemble = Restarts(OneUlpTooFar(epsilon=epsilon), 1)
        assert (size(ensemble(classifier(dtype), x, y), x, Linf) <= epsilon).all()


@dtypes
def test_one_that_goes_farther_is_found_out(dtype):
    x, y = torch.full((1, 35), 0.5, dtype=dtype), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ServaxError, match="left its reach: distance 0"):
        Farther(epsilon=0.003)(classifier(dtype), x, y)
