"""Attacks of other libraries through the bridge.

Oracles: the library called directly on [0, 1], closed forms on linear models, and a problem of
other bounds that is the same one rescaled.
"""

from __future__ import annotations

import logging
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from servax.attacks import PGD, Outside, presets
from servax.errors import ServaxError, SettingError
from servax.perturbation import L2, Linf

WIDE = (-9.0, 9.0)


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


# The library, called directly


@dataclass(frozen=True)
class Row:
    """An attack of the bridge and what its library calls it."""

    path: str
    settings: dict[str, Any] = field(default_factory=dict)
    norm: Any = Linf
    epsilon: float = 0.06
    direct: dict[str, Any] = field(default_factory=dict)
    targets: bool = True

    @property
    def outside(self):
        return Outside(path=self.path, norm=self.norm, epsilon=self.epsilon, settings=self.settings)

    def run(self, model, x, y, *, targeted=False, seed=0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = self.path.rsplit(".", 1)[1]
            return {"foolbox": foolbox, "art": toolbox, "torchattacks": images}[
                self.path.split(".")[0]
            ](self, name, model, x, y, targeted, seed)


def foolbox(row, name, model, x, y, targeted, seed):
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    wanted = foolbox.criteria.TargetedMisclassification(y) if targeted else y
    attack = getattr(foolbox.attacks, name)(**row.settings)
    epsilon = None if row.epsilon is None else row.epsilon
    return attack(wrapped, x, wanted, epsilons=epsilon)[1]


def images(row, name, model, x, y, targeted, seed):
    import torchattacks

    attack = getattr(torchattacks, name)(model, **row.settings, eps=row.epsilon, **row.direct)
    if "seed" in vars(attack):
        attack.seed = seed
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    with torch.random.fork_rng():
        return attack(x, y)


def toolbox(row, name, model, x, y, targeted, seed):
    import art.attacks.evasion
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 6, 8),
        nb_classes=3,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    settings = {**row.settings, **row.direct, "eps": row.epsilon}
    if targeted:
        settings["targeted"] = True
    attack = getattr(art.attacks.evasion, name)(classifier, **settings)
    return torch.from_numpy(attack.generate(x.numpy(), y=y.numpy()))


ROWS = {
    "foolbox PGD": Row("foolbox.attacks.LinfPGD", {"steps": 7, "random_start": False}),
    "foolbox MI-FGSM L2": Row(
        "foolbox.attacks.L2MomentumIterativeFastGradientMethod", {"steps": 4}, L2, 0.8
    ),
    "torchattacks PGD": Row("torchattacks.PGD", {"alpha": 0.02, "steps": 5, "random_start": False}),
    "torchattacks PGD L2": Row(
        "torchattacks.PGDL2", {"alpha": 0.2, "steps": 5, "random_start": False}, L2, 0.6
    ),
    "torchattacks APGD": Row(
        "torchattacks.APGD", {"steps": 8}, L2, 0.6, {"norm": "L2"}, targets=False
    ),
    "ART FGSM": Row("art.attacks.evasion.FastGradientMethod"),
    "ART PGD L2": Row(
        "art.attacks.evasion.ProjectedGradientDescent",
        {"eps_step": 0.2, "max_iter": 5},
        L2,
        0.6,
        {"norm": 2, "verbose": False},
    ),
}
rows = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


@pytest.mark.parametrize(
    ("row", "targeted"),
    [(row, aim) for row in ROWS.values() for aim in (False, True) if row.targets or not aim],
)
def test_the_bridge_changes_nothing_on_zero_to_one(build, row, targeted):
    model = build("conv", torch.float32)
    x, y = points(model, dtype=torch.float32)
    y = (y + 1) % 3 if targeted else y
    seed = int(torch.randint(2**31 - 1, (1,), generator=seeded()))
    theirs = row.run(model, x, y, targeted=targeted, seed=seed)
    settings = {k: getattr(row.outside, k) for k in ("path", "norm", "epsilon", "settings")}
    ours = Outside(targeted=targeted, **settings)(model, x, y, generator=seeded())
    assert not torch.equal(ours, x)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-6)


@rows
def test_other_bounds_are_the_same_problem_rescaled(build, row):
    model = build("conv")
    x, y = points(model)
    plain = row.outside(model, x, y, generator=seeded())
    moved = Outside(
        path=row.path,
        norm=row.norm,
        epsilon=8 * row.epsilon,
        settings=row.settings,
        bounds=(-3.0, 5.0),
    )
    found = moved(Rescaled(model), 8 * x - 3, y, generator=seeded())
    torch.testing.assert_close((found + 3) / 8, plain, rtol=0.0, atol=1e-6)


# Minimum-norm attacks

NEAREST: dict[str, tuple[Callable[..., Outside], Any, float, float]] = {
    "DeepFool": (presets.deepfool, Linf, 1.04, 1.04),
    "DeepFool L2": (lambda **k: presets.deepfool(norm=L2, **k), L2, 1.04, 1.04),
    "FMN": (presets.fmn, Linf, 1.03, 1.08),
    "DDN": (presets.ddn, L2, 1.03, 1.5),
    "Carlini-Wagner": (presets.carlini_wagner, L2, 1.05, 1.5),
    "FAB": (lambda **k: presets.fab(steps=20, **k), Linf, 1.03, 1.08),
    "FAB L2": (lambda **k: presets.fab(norm=L2, steps=20, **k), L2, 1.03, 1.08),
    "ART DeepFool": (
        lambda **k: Outside(
            path="art.attacks.evasion.DeepFool", norm=L2, settings={"epsilon": 0.02}, **k
        ),
        L2,
        1.03,
        1.03,
    ),
}


@pytest.mark.parametrize(
    ("preset", "norm", "factor", "worst"), NEAREST.values(), ids=NEAREST.keys()
)
def test_on_linear_boundaries_the_distance_has_a_closed_form(preset, norm, factor, worst):
    model = Planes() if "DeepFool" in preset().path else Bent()
    x, y = points(model)
    nearest = closed_form(Planes(), x, y, norm)
    attack = preset(epsilon=float(nearest.median()) * factor)
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
    attack = presets.deepfool(bounds=WIDE, norm=norm)
    distances = attack.distances(model, x, y, generator=seeded())
    assert (distances >= nearest * (1 - 1e-5)).all()
    assert (distances <= nearest * 1.03 + 2e-3).all()


@pytest.mark.parametrize("preset", [presets.fmn, presets.ddn, presets.carlini_wagner])
def test_a_target_is_further_away_than_the_nearest_class(preset):
    model = Bent()
    x, y = points(model)
    towards = (y + 2) % 4
    attack = preset(targeted=True)
    distances = attack.distances(model, x, towards, generator=seeded())
    nearest = closed_form(Planes(), x, y, attack.norm, towards=towards)
    assert (distances >= nearest * (1 - 1e-5)).all()
    # Other classes may lie on the way.
    assert (distances <= nearest * 1.6).all()


DECISIONS = {
    "HopSkipJump": presets.hop_skip_jump(queries=900, epsilon=0.3),
    "HopSkipJump L2": presets.hop_skip_jump(queries=900, norm=L2, epsilon=2.0),
    "ART HopSkipJump": Outside(
        path="art.attacks.evasion.HopSkipJump", norm=L2, epsilon=2.0, settings={"max_iter": 6}
    ),
    "boundary": presets.boundary(steps=400, epsilon=2.0),
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
    attack = presets.hop_skip_jump(queries=300, epsilon=2.0)
    found = attack(Forgetful(Planes(2)), x, y, generator=seeded())
    assert torch.equal(found[0], x[0])
    assert not torch.equal(found[1], x[1])


def test_what_is_wrong_already_never_enters(build, watch):
    model = build("conv")
    x, y = points(model)
    y[::2] = (y[::2] + 1) % 3
    attack = ROWS["foolbox PGD"].outside
    found = attack(model, x, y, generator=seeded())
    assert torch.equal(found[::2], x[::2])
    assert not torch.equal(found[1::2], x[1::2])
    alone = attack(model, x[1::2], y[1::2], generator=seeded())
    assert torch.equal(found[1::2], alone)
    assert (presets.fmn().distances(model, x, y, generator=seeded())[::2] == 0).all()
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
MASKED = {
    "foolbox PGD": Outside(
        path="foolbox.attacks.LinfPGD", epsilon=0.05, settings={"abs_stepsize": 0.02, "steps": 5}
    ),
    "torchattacks PGD": Outside(
        path="torchattacks.PGD", epsilon=0.05, settings={"alpha": 0.05, "steps": 5}
    ),
    "ART FGSM": Outside(path="art.attacks.evasion.FastGradientMethod", epsilon=0.05),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("attack", MASKED.values(), ids=MASKED.keys())
def test_what_may_not_change_keeps_its_value_and_has_no_part_in_it(attack, mask):
    model = Planes(2)
    x, y = points(model)
    found = attack(model, x, y, generator=seeded(), mask=mask)
    uphill = (model.weight[1 - y] - model.weight[y]).detach().view_as(x)
    corner = torch.where(mask, x + 0.05 * uphill.sign(), x)
    assert torch.equal(torch.where(mask, x, found), x)
    torch.testing.assert_close(found, corner, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_distances_with_a_mask_are_those_of_what_may_change(mask):
    model = Planes()
    x, y = points(model)
    for attack in (presets.deepfool(bounds=WIDE), presets.deepfool(bounds=WIDE, norm=L2)):
        distances = attack.distances(model, x, y, generator=seeded(), mask=mask)
        nearest = closed_form(model, x, y, attack.norm, mask=mask)
        assert (distances <= nearest * 1.05 + 2e-3).all()
        assert (distances >= nearest * (1 - 1e-5)).all()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_an_attack_that_splits_the_batch_is_given_one_utterance_at_a_time(mask):
    # Square asks about those that still stand, without saying which these are.
    model = Planes()
    x, y = points(model)
    square = Outside(path="torchattacks.Square", epsilon=0.1, settings={"n_queries": 60})
    found = square(model, x, y, generator=seeded(), mask=mask)
    fooled = model(found).argmax(dim=1) != y
    assert fooled.any()
    assert not fooled.all()
    assert torch.equal(torch.where(mask, x, found), x)


# What stays as it was


def test_random_numbers_come_from_the_generator_and_nothing_stays_of_a_run(build, capfd):
    model = build("conv", torch.float32).train()
    x, y = points(build("conv", torch.float32), dtype=torch.float32)
    for path in ("foolbox.attacks.LinfPGD", "torchattacks.PGD", "torchattacks.TPGD"):
        attack = Outside(path=path, epsilon=0.02)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        handlers = list(logging.getLogger().handlers)
        found = attack(model, x, y, generator=seeded())
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
        assert logging.getLogger().handlers == handlers
        assert logging.getLogger().manager.disable == logging.NOTSET
        assert torch.equal(found, attack(model, x, y, generator=seeded()))
        assert not torch.equal(found, attack(model, x, y, generator=seeded(1)))
        assert all(module.training for module in model.modules())
        assert all(w.grad is None and w.requires_grad for w in model.parameters())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_whether_gradients_are_off_outside_the_bridge(build, mode):
    model = build("conv", torch.float32)
    x, y = points(model, dtype=torch.float32)
    for row in ROWS.values():
        expected = row.outside(model, x, y, generator=seeded())
        with mode():
            found = row.outside(model, x.clone(), y.clone(), generator=seeded())
        assert torch.equal(found.clone(), expected)


def test_a_library_prints_nothing_about_a_model_without_weights(capfd):
    model = nn.Sequential(nn.Flatten(), nn.AvgPool1d(16))
    x, y = points(model)
    found = Outside(path="torchattacks.PGD", epsilon=0.3)(model, x, y, generator=seeded())
    assert (model(found).argmax(dim=1) != y).any()
    assert capfd.readouterr() == ("", "")


# Strength


def test_a_bridged_attack_is_as_strong_as_ours(build):
    model = build("conv")
    x, y = points(model, batch=24)
    settings = {"steps": 20, "abs_stepsize": 0.02, "random_start": False}
    theirs = Outside(path="foolbox.attacks.LinfPGD", epsilon=0.2, settings=settings)
    ours = PGD(epsilon=0.2, steps=20, step=0.02)
    assert torch.equal(
        model(theirs(model, x, y, generator=seeded())).argmax(dim=1),
        model(ours(model, x, y)).argmax(dim=1),
    )


# Refusals


def outside(path="foolbox.attacks.LinfPGD", **settings):
    return lambda: Outside(path=path, **settings)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (outside("os.system"), "path is 'os.system', expected an attack class below one of foolb"),
        (outside("foolbox.attacksX.A"), "below one of foolbox.attacks, art.attacks.evasion, torch"),
        (outside("torchattacks"), "expected an attack class below one of"),
        (outside("foolbox.attacks.LinfPDG"), r"Did you mean 'foolbox.attacks.LinfPGD'\?"),
        (outside("torchattacks.PDGL2"), r"Did you mean 'torchattacks.PGDL2'\?"),
        (
            outside("art.attacks.evasion.HopSkipJumpAttack"),
            r"Did you mean 'art.attacks.evasion.HopSkipJump'\?",
        ),
        (outside("foolbox.attacks.base.MinimizationAttack"), "expected the path of an attack cl"),
        (outside("torchattacks.attacks.pgd.nn.Linear"), "expected the path of an attack class"),
        (outside("foolbox.attacks.ep"), "expected the path of an attack class of foolbox"),
        (outside(norm=L2), "norm is 'L2', expected that of LinfProjectedGradientDescentAttack"),
        (outside("torchattacks.PGD", norm=L2), "norm is 'L2', expected Linf, of PGD"),
        (outside("torchattacks.PGDL2"), "norm is 'Linf', expected L2, of PGDL2"),
        (outside("foolbox.attacks.L1PGD"), "it measures L1 distance"),
        (outside("foolbox.attacks.SpatialAttack"), "an attack whose changes have a norm"),
        (outside("foolbox.attacks.L2FMNAttack", norm=L2), "DDNAttack is sound"),
        (outside(settings={"step": 3}), r"a setting of Linf.* is 'step', .* Did you mean 'steps'"),
        (outside("torchattacks.PGD", settings={"eps": 0.1}), "the bridge gives it"),
        (
            outside("art.attacks.evasion.FastGradientMethod", settings={"norm": 2}),
            r"settings\['norm'\] is 2, expected no such setting",
        ),
        (outside("foolbox.attacks.VirtualAdversarialAttack", norm=L2), "a value for steps, which"),
        (outside("foolbox.attacks.LinfDeepFoolAttack", targeted=True), "LinfDeepFoolAttack knows"),
        (outside("art.attacks.evasion.DeepFool", targeted=True), "DeepFool knows no target"),
        (outside(epsilon=-1.0), "epsilon is -1.0"),
        (outside(norm="Linf"), "norm is 'Linf'"),
        (lambda: presets.hop_skip_jump(queries=10), "queries is 10, expected at least 140"),
    ],
)
def test_settings_outside_the_rule_of_a_bridge_are_refused(make, sentence):
    with pytest.raises(SettingError, match=sentence):
        make()


def test_a_path_is_refused_before_anything_else_is_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("trap.Attack", "foolbox.attacks.trap", "torchattacks.trap.Attack"):
        with pytest.raises(SettingError, match="path is"):
            Outside(path=path)
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("path", "modules", "sentence"),
    [
        (
            "foolbox.attacks.LinfPGD",
            ["foolbox", "foolbox.attacks"],
            r"foolbox cannot be imported .* pip install 'servax\[attacks\]'",
        ),
        (
            "art.attacks.evasion.DeepFool",
            ["art", "art.attacks.evasion"],
            r"adversarial-robustness-toolbox cannot .* pip install 'servax\[attacks\]'",
        ),
        ("torchattacks.PGD", ["torchattacks"], "pip install --no-deps torchattacks"),
    ],
)
def test_a_library_that_is_missing_is_told(monkeypatch, path, modules, sentence):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ServaxError, match=sentence):
        Outside(path=path)


def test_what_a_call_needs(build):
    model = build("conv")
    x, y = points(model)
    with pytest.raises(SettingError, match=r"generator is None, expected a torch\.Generator"):
        Outside(path="foolbox.attacks.LinfPGD")(model, x, y)
    with pytest.raises(SettingError, match="expected a minimum-norm attack"):
        Outside(path="torchattacks.PGD").distances(model, x, y, generator=seeded())
    with pytest.raises(SettingError, match="targeted is True, expected False: TPGD knows no"):
        Outside(path="torchattacks.TPGD", targeted=True)(model, x, (y + 1) % 3, generator=seeded())


def test_infinite_bounds_are_as_far_away_as_the_radius():
    model = Planes()
    x, y = points(model)
    attack = presets.deepfool(epsilon=0.05, bounds=(-torch.inf, torch.inf))
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


@pytest.mark.parametrize("name", ["foolbox PGD", "torchattacks PGD", "ART FGSM"])
def test_an_attack_that_raises_on_some_utterances_fails_on_these(build, name):
    model = build("conv", torch.float32)
    x, y = points(model, dtype=torch.float32)
    x[2, 0, 0, 0] = 1.0
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    attack = ROWS[name].outside
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
    with pytest.raises(ServaxError, match=r"torchattacks.APGDT failed on every .* index -4 is out"):
        Outside(path="torchattacks.APGDT", settings={"steps": 3})(model, x, y, generator=seeded())
    with pytest.raises(ServaxError, match=r"failed on every utterance: RuntimeError"):
        ROWS["foolbox PGD"].outside(Decisions(model), x, y, generator=seeded())
