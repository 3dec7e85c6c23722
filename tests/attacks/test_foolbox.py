"""Attacks of foolbox as attacks of ours.

Oracles: foolbox called directly on [0, 1], closed forms on linear models, and a problem of
other bounds that is the same one rescaled.
"""

from __future__ import annotations

import logging
import random
import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from servax.attacks import PGD, Foolbox
from servax.errors import ServaxError, SettingError
from servax.perturbation import L2, Linf

WIDE = (-9.0, 9.0)
preset = Foolbox.preset


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Planes(nn.Module):
    """A linear classifier of (B, 1, 6, 8): the distance to each boundary has a closed form."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(3)
        weight = torch.randn(classes, 48, generator=draws, dtype=torch.float64)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(-0.5 * weight.sum(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class Bent(Planes):
    """The same boundaries, with logits that are no linear function of the input.

    FMN aims at where the boundary would be, and might stay on it if that were exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + 0.05 * logits**3


class Decisions(nn.Module):
    """Scores that tell the class and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(x.dtype)


class Rescaled(nn.Module):
    """The same model on inputs in [-3, 5]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x + 3.0) / 8.0)


def points(model, batch=6, dtype=torch.float64):
    """Draw inputs in [.2, .8], and the classes the model gives them."""
    x = 0.2 + 0.6 * torch.rand(batch, 1, 6, 8, generator=seeded(4), dtype=torch.float64)
    with torch.no_grad():
        return x.to(dtype), model(x.to(dtype)).argmax(dim=1)


def dual_norms(gap: Tensor, norm: Any) -> Tensor:
    return gap.abs().sum(dim=-1) if norm is Linf else gap.norm(dim=-1)


def closed_form(model, x, y, norm, mask=None, towards=None):
    """Return the distance (B,) from x to the nearest boundary of a linear model."""
    with torch.no_grad():
        logits = model(x)
        weight = model.weight.expand(len(x), *model.weight.shape)
        if mask is not None:
            weight = weight * mask.expand(x.shape).flatten(1).unsqueeze(1)
        own = weight[torch.arange(len(x)), y].unsqueeze(1)
        gap = logits.gather(1, y.unsqueeze(1)) - logits
        distance = gap / dual_norms(weight - own, norm)
        distance[torch.arange(len(x)), y] = float("inf")
        if towards is not None:
            return distance.gather(1, towards.unsqueeze(1)).squeeze(1)
        return distance.amin(dim=1)


# foolbox, called directly

ROWS = {
    "PGD": Foolbox(attack="LinfPGD", epsilon=0.06, settings={"steps": 7, "random_start": False}),
    "MI-FGSM L2": Foolbox(
        attack="L2MomentumIterativeFastGradientMethod",
        norm=L2,
        epsilon=0.8,
        settings={"steps": 4},
    ),
}
rows = pytest.mark.parametrize("attack", ROWS.values(), ids=ROWS.keys())


def called_directly(attack, model, x, y, *, targeted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        wanted = foolbox.criteria.TargetedMisclassification(y) if targeted else y
        run = getattr(foolbox.attacks, attack.attack)(**attack.settings)
        return run(wrapped, x, wanted, epsilons=attack.epsilon)[1]


@rows
@pytest.mark.parametrize("targeted", [False, True])
def test_the_bridge_changes_nothing_on_zero_to_one(build, attack, targeted):
    model = build("conv", torch.float32)
    x, y = points(model, dtype=torch.float32)
    y = (y + 1) % 3 if targeted else y
    theirs = called_directly(attack, model, x, y, targeted=targeted)
    ours = replace(attack, targeted=targeted)(model, x, y, generator=seeded())
    assert not torch.equal(ours, x)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-6)


@rows
def test_other_bounds_are_the_same_problem_rescaled(build, attack):
    model = build("conv")
    x, y = points(model)
    plain = attack(model, x, y, generator=seeded())
    moved = replace(attack, epsilon=8 * attack.epsilon, bounds=(-3.0, 5.0))
    found = moved(Rescaled(model), 8 * x - 3, y, generator=seeded())
    torch.testing.assert_close((found + 3) / 8, plain, rtol=0.0, atol=1e-6)


# Minimum-norm attacks

NEAREST = {
    "DeepFool": (preset("deepfool"), 1.04, 1.04),
    "DeepFool L2": (preset("deepfool", norm=L2), 1.04, 1.04),
    "FMN": (preset("fmn"), 1.03, 1.08),
    "DDN": (preset("ddn"), 1.03, 1.5),
    "Carlini-Wagner": (preset("carlini-wagner"), 1.05, 1.5),
}


@pytest.mark.parametrize(("attack", "factor", "worst"), NEAREST.values(), ids=NEAREST.keys())
def test_on_linear_boundaries_the_distance_has_a_closed_form(attack, factor, worst):
    model = Planes() if "DeepFool" in attack.attack else Bent()
    x, y = points(model)
    nearest = closed_form(Planes(), x, y, attack.norm)
    attack = replace(attack, epsilon=float(nearest.median()) * factor)
    distances = attack.distances(model, x, y, generator=seeded())
    assert (distances >= nearest * (1 - 1e-5)).all()
    assert (distances <= nearest * worst + 3e-4).all()
    assert float(((distances - 3e-4) / nearest).median()) <= factor
    found = attack(model, x, y, generator=seeded())
    near = distances <= attack.epsilon * (1 + 1e-6)
    assert near.any()
    assert not near.all()
    assert ((model(found).argmax(dim=1) != y) == near).all()
    assert torch.equal(found[~near], x[~near])


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("norm", [Linf, L2])
def test_deepfool_in_any_number_of_classes_and_in_wide_bounds(classes, norm):
    model = Planes(classes)
    x, y = points(model)
    nearest = closed_form(model, x, y, norm)
    attack = preset("deepfool", bounds=WIDE, norm=norm)
    distances = attack.distances(model, x, y, generator=seeded())
    assert (distances >= nearest * (1 - 1e-5)).all()
    assert (distances <= nearest * 1.03 + 2e-3).all()


@pytest.mark.parametrize("name", ["fmn", "ddn", "carlini-wagner"])
def test_a_target_is_further_away_than_the_nearest_class(name):
    model = Bent()
    x, y = points(model)
    towards = (y + 2) % 4
    attack = preset(name, targeted=True)
    distances = attack.distances(model, x, towards, generator=seeded())
    nearest = closed_form(Planes(), x, y, attack.norm, towards=towards)
    assert (distances >= nearest * (1 - 1e-5)).all()
    # Other classes may lie on the way.
    assert (distances <= nearest * 1.6).all()


DECISIONS = {
    "HopSkipJump": preset("hop-skip-jump", queries=900, epsilon=0.3),
    "HopSkipJump L2": preset("hop-skip-jump", queries=900, norm=L2, epsilon=2.0),
    "boundary": preset("boundary", steps=400, epsilon=2.0),
}
decisions = pytest.mark.parametrize("attack", DECISIONS.values(), ids=DECISIONS.keys())


@decisions
def test_attacks_that_see_decisions_only(attack):
    bare = Planes(3)
    model = Decisions(bare)
    x, y = points(model)
    distances = attack.distances(model, x, y, generator=seeded())
    nearest = closed_form(bare, x, y, attack.norm)
    assert (distances >= nearest * (1 - 1e-5)).all()
    assert distances.median() < 8.0 * nearest.median()
    assert torch.equal(distances, attack.distances(model, x, y, generator=seeded()))
    found = attack(model, x, y, generator=seeded())
    assert (model(found).argmax(dim=1) != y).any()


def test_without_a_starting_point_an_attack_on_decisions_fails(build):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).to(x).expand(len(x), 2)

    x, y = points(Constant())
    for attack in DECISIONS.values():
        assert attack.distances(Constant(), x, y, generator=seeded()).isinf().all()
        assert torch.equal(attack(Constant(), x, y, generator=seeded()), x)


def test_a_walk_that_loses_the_boundary_by_rounding_fails_on_that_utterance_alone():
    class Forgetful(Decisions):
        """Gives one class to everything, once it has been asked often enough."""

        asked = 0

        def forward(self, x):
            self.asked += 1
            said = super().forward(x)
            return said if self.asked < 8 else nn.functional.one_hot(y[:1], 2).expand_as(said)

    x, y = points(Planes(2), batch=1)
    x, y = torch.cat([x, 1.0 - x]), torch.cat([y, 1 - y])
    attack = preset("hop-skip-jump", queries=300, epsilon=2.0)
    found = attack(Forgetful(Planes(2)), x, y, generator=seeded())
    assert torch.equal(found[0], x[0])
    assert not torch.equal(found[1], x[1])


def test_what_is_wrong_already_never_enters(build, watch):
    model = build("conv")
    x, y = points(model)
    y[::2] = (y[::2] + 1) % 3
    attack = ROWS["PGD"]
    found = attack(model, x, y, generator=seeded())
    assert torch.equal(found[::2], x[::2])
    assert not torch.equal(found[1::2], x[1::2])
    alone = attack(model, x[1::2], y[1::2], generator=seeded())
    assert torch.equal(found[1::2], alone)
    assert (preset("fmn").distances(model, x, y, generator=seeded())[::2] == 0).all()
    watched = watch(model)
    attack(watched, x[::2], y[::2], generator=seeded())
    assert watched.forwards == 1


# Masks

MASKS = {
    "frames of a batch": torch.arange(8) < 5,
    "frames of each": (torch.arange(8) < torch.tensor([[5], [8], [3], [1], [7], [4]]))[
        :, None, None, :
    ],
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@masks
def test_what_may_not_change_keeps_its_value_and_has_no_part_in_it(mask):
    model = Planes(2)
    x, y = points(model)
    attack = Foolbox(attack="LinfPGD", epsilon=0.05, settings={"abs_stepsize": 0.02, "steps": 5})
    found = attack(model, x, y, generator=seeded(), mask=mask)
    uphill = (model.weight[1 - y] - model.weight[y]).detach().view_as(x)
    corner = torch.where(mask, x + 0.05 * uphill.sign(), x)
    assert torch.equal(torch.where(mask, x, found), x)
    torch.testing.assert_close(found, corner, rtol=0.0, atol=1e-6)


@masks
def test_distances_with_a_mask_are_those_of_what_may_change(mask):
    model = Planes()
    x, y = points(model)
    for attack in (preset("deepfool", bounds=WIDE), preset("deepfool", bounds=WIDE, norm=L2)):
        distances = attack.distances(model, x, y, generator=seeded(), mask=mask)
        nearest = closed_form(model, x, y, attack.norm, mask=mask)
        assert (distances <= nearest * 1.05 + 2e-3).all()
        assert (distances >= nearest * (1 - 1e-5)).all()


# What stays as it was


def test_random_numbers_come_from_the_generator_and_nothing_stays_of_a_run(build, capfd):
    model = build("conv", torch.float32).train()
    x, y = points(build("conv", torch.float32), dtype=torch.float32)
    attack = Foolbox(attack="LinfPGD", epsilon=0.02)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    handlers = list(logging.getLogger().handlers)
    found = attack(model, x, y, generator=seeded())
    preset("deepfool", candidates=2)(model, x, y, generator=seeded())  # logs what it does
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert logging.getLogger().handlers == handlers
    assert torch.equal(found, attack(model, x, y, generator=seeded()))
    assert not torch.equal(found, attack(model, x, y, generator=seeded(1)))
    assert all(module.training for module in model.modules())
    assert all(w.grad is None and w.requires_grad for w in model.parameters())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_whether_gradients_are_off_outside_the_bridge(build, mode):
    model = build("conv", torch.float32)
    x, y = points(model, dtype=torch.float32)
    for attack in ROWS.values():
        expected = attack(model, x, y, generator=seeded())
        with mode():
            found = attack(model, x.clone(), y.clone(), generator=seeded())
        assert torch.equal(found.clone(), expected)


# Strength


def test_a_bridged_attack_is_as_strong_as_ours(build):
    model = build("conv")
    x, y = points(model, batch=24)
    settings = {"steps": 20, "abs_stepsize": 0.02, "random_start": False}
    theirs = Foolbox(attack="LinfPGD", epsilon=0.2, settings=settings)
    ours = PGD(epsilon=0.2, steps=20, step=0.02)
    assert torch.equal(
        model(theirs(model, x, y, generator=seeded())).argmax(dim=1),
        model(ours(model, x, y)).argmax(dim=1),
    )


# Refusals


def bridge(attack="LinfPGD", **settings):
    return lambda: Foolbox(attack=attack, **settings)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (bridge("system"), "attack is 'system', expected the name of an attack of foolbox"),
        (bridge("LinfPDG"), r"Did you mean 'LinfPGD'\?"),
        (bridge("Attack"), "expected the name of an attack of foolbox"),
        (bridge("ep"), "expected the name of an attack of foolbox"),
        (bridge(norm=L2), "norm is 'L2', expected that of LinfPGD: it measures Linf"),
        (bridge("L1PGD"), "it measures L1 distance"),
        (bridge("SpatialAttack"), "an attack whose changes have a norm"),
        (bridge("L2FMNAttack", norm=L2), "DDNAttack is sound"),
        (bridge(settings={"step": 3}), r"a setting of Linf.* is 'step', .* Did you mean 'steps'"),
        (bridge("BoundaryAttack", settings={"distance": 2}), "it follows from norm"),
        (bridge("VirtualAdversarialAttack", norm=L2), "a value for steps, which"),
        (bridge("LinfDeepFoolAttack", targeted=True), "LinfDeepFoolAttack knows"),
        (bridge(epsilon=-1.0), "epsilon is -1.0"),
        (bridge(norm="Linf"), "norm is 'Linf'"),
        (lambda: preset("hop-skip-jump", queries=10), "queries is 10, expected at least 140"),
        (lambda: preset("hopskip"), "preset is 'hopskip', expected one of boundary, .*"),
        (lambda: preset("fmn", norm=L2), "norm is 'L2', expected Linf, of fmn"),
    ],
)
def test_settings_outside_the_rule_of_the_bridge_are_refused(make, sentence):
    with pytest.raises(SettingError, match=sentence):
        make()


def test_that_foolbox_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    sentence = r"foolbox needs foolbox .* pip install '\.\[attacks\]'"
    with pytest.raises(ServaxError, match=sentence):
        Foolbox(attack="LinfPGD")


def test_what_a_call_needs(build):
    model = build("conv")
    x, y = points(model)
    with pytest.raises(SettingError, match=r"generator is None, expected a torch\.Generator"):
        Foolbox(attack="LinfPGD")(model, x, y)
    with pytest.raises(SettingError, match="expected a minimum-norm attack"):
        Foolbox(attack="LinfPGD").distances(model, x, y, generator=seeded())


def test_infinite_bounds_are_as_far_away_as_epsilon():
    model = Planes()
    x, y = points(model)
    attack = preset("deepfool", epsilon=0.05, bounds=(-torch.inf, torch.inf))
    near = closed_form(model, x, y, Linf) < 0.049
    found = attack(model, x, y, generator=seeded())
    assert torch.equal((found != x).flatten(1).any(dim=1), near)
    with pytest.raises(SettingError, match=r"bounds is \(-inf, inf\), expected finite ones"):
        attack.distances(model, x, y, generator=seeded())


class Brittle(nn.Module):
    """Raises when it is asked for the gradient of a marked input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and bool((x[:, 0, 0, 0] > 0.99).any()):
            raise ArithmeticError("a marked input")
        return self.model(x)


def test_an_attack_that_raises_on_some_utterances_fails_on_these(build):
    model = build("conv", torch.float32)
    x, y = points(model, dtype=torch.float32)
    x[2, 0, 0, 0] = 1.0
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    attack = ROWS["PGD"]
    found = attack(Brittle(model), x, y, generator=seeded())
    assert torch.equal(found[2], x[2])
    others = [0, 1, 3, 4, 5]
    alone = attack(model, x[others], y[others], generator=seeded())
    torch.testing.assert_close(found[others], alone, rtol=0.0, atol=1e-6)
    with pytest.raises(ServaxError, match=r"failed on every utterance: Arith.*: a marked input"):
        attack(Brittle(model), x[2:3], y[2:3], generator=seeded())


def test_an_error_of_a_library_is_told(build):
    model = build("conv")
    x, y = points(model)
    with pytest.raises(ServaxError, match=r"LinfPGD of foolbox failed on every .*: RuntimeError"):
        ROWS["PGD"](Decisions(model), x, y, generator=seeded())
