"""One table drives FGSM and PGD in both norms, from the clean input and from a random start.

Each row is attacked by servax, by foolbox and (where it has the attack) by torchattacks on the same
model and inputs. In float64 they must agree to 1e-6; in float32 the sign of a gradient near zero
flips with any reordering of operations, so there the predictions must agree.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

from servax.attacks import FGSM, PGD, Attack
from servax.perturbation import L2, Linf


@dataclass(frozen=True)
class Row:
    """An attack and what its oracles call it."""

    attack: Attack
    foolbox: str
    torchattacks: str | None = None

    @property
    def steps(self):
        return getattr(self.attack, "steps", 1)

    @property
    def step(self):
        return getattr(self.attack, "step", self.attack.ball.radius)

    @property
    def random_start(self):
        return getattr(self.attack, "random_start", False)


def pgd(norm, steps, step, epsilon, random_start=False):
    return PGD(norm=norm, steps=steps, step=step, epsilon=epsilon, random_start=random_start)


ROWS = {
    "FGSM Linf": Row(FGSM(epsilon=0.03), "LinfFastGradientAttack", "FGSM"),
    "FGSM Linf, large": Row(FGSM(epsilon=0.4), "LinfFastGradientAttack", "FGSM"),
    "FGSM L2": Row(FGSM(epsilon=0.5, norm=L2), "L2FastGradientAttack"),
    "FGSM Linf, random start": Row(pgd(Linf, 1, 0.05, 0.05, True), "LinfPGD"),
    "FGSM L2, random start": Row(pgd(L2, 1, 0.5, 0.5, True), "L2PGD"),
    "PGD Linf": Row(pgd(Linf, 10, 0.003, 0.02), "LinfPGD", "PGD"),
    "PGD Linf, basic iterative": Row(pgd(Linf, 10, 0.01, 0.2), "LinfBasicIterativeAttack", "PGD"),
    "PGD L2": Row(pgd(L2, 10, 0.1, 0.4), "L2PGD", "PGDL2"),
    "PGD L2, wide": Row(pgd(L2, 10, 0.3, 5.0), "L2BasicIterativeAttack", "PGDL2"),
    "PGD Linf, random start": Row(pgd(Linf, 10, 0.01, 0.05, True), "LinfPGD"),
    "PGD L2, random start": Row(pgd(L2, 10, 0.1, 0.4, True), "L2PGD"),
}
rows = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
models = pytest.mark.parametrize("name", ["conv", "linear"])


def seeded():
    return torch.Generator().manual_seed(11)


def run(row, model, x, y):
    return row.attack(model, x, y, generator=seeded() if row.random_start else None)


def run_foolbox(foolbox, row, model, x, y):
    kind = getattr(foolbox.attacks, row.foolbox)
    if "FastGradient" in row.foolbox:
        oracle = kind(random_start=False)
    else:
        oracle = kind(abs_stepsize=row.step, steps=row.steps, random_start=row.random_start)
    ball = row.attack.ball
    # The same draw, so that both walk from the same place.
    oracle.get_random_start = lambda clean, epsilon: clean + type(clean)(ball.sample(x, seeded()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = foolbox.PyTorchModel(model, bounds=row.attack.bounds, device="cpu")
        criterion = foolbox.criteria.Misclassification(y)
        return oracle.run(wrapped, x, criterion, epsilon=ball.radius)


def run_torchattacks(torchattacks, row, model, x, y):
    settings = {"eps": row.attack.ball.radius}
    if row.torchattacks != "FGSM":
        settings |= {"alpha": row.step, "steps": row.steps, "random_start": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(torchattacks, row.torchattacks)(model, **settings)(x, y)


def oracles(row, foolbox, torchattacks, model, x, y):
    yield run_foolbox(foolbox, row, model, x, y)
    if row.torchattacks is not None:
        yield run_torchattacks(torchattacks, row, model, x, y)


@models
@rows
def test_float64_agrees_with_the_oracles(foolbox, torchattacks, build, inputs, row, name):
    model = build(name)
    x, y = inputs()
    ours = run(row, model, x, y)
    assert not torch.equal(ours, x)
    for theirs in oracles(row, foolbox, torchattacks, model, x, y):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-6)


@models
@rows
def test_float32_fools_the_model_as_the_oracles_do(foolbox, torchattacks, build, inputs, row, name):
    model = build(name, torch.float32)
    x, y = inputs(torch.float32, batch=40)
    ours = model(run(row, model, x, y)).argmax(dim=1)
    assert not torch.equal(ours, model(x).argmax(dim=1))
    for theirs in oracles(row, foolbox, torchattacks, model, x, y):
        assert torch.equal(ours, model(theirs).argmax(dim=1))


@models
@rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_iterate_is_in_reach_and_the_loss_rises(build, inputs, row, name, dtype):
    model = build(name, dtype)
    x, y = inputs(dtype)
    generator = seeded() if row.random_start else None
    ball = row.attack.ball
    for iterate in row.attack.trajectory(model, x, y, generator=generator):
        assert iterate.shape == x.shape
        assert iterate.dtype == dtype
        assert not iterate.requires_grad
        assert (ball.norm(iterate - x) <= ball.radius * (1 + 1e-6) + 1e-7).all()
        assert float(iterate.min()) >= 0.0
        assert float(iterate.max()) <= 1.0
    loss = torch.nn.functional.cross_entropy
    with torch.no_grad():
        assert loss(model(iterate), y) > loss(model(x), y)


@rows
def test_foolbox_agrees_on_other_bounds(foolbox, build, inputs, row):
    settings = dict(vars(row.attack))
    moved = Row(type(row.attack)(**{**settings, "bounds": (-1.0, 0.5)}), row.foolbox)
    model = build("conv")
    x, y = inputs()
    x = 1.5 * x - 1.0
    ours = run(moved, model, x, y)
    theirs = run_foolbox(foolbox, moved, model, x, y)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-6)


def uphill(model, y):
    """Return the direction (B, 1, 6, 8) that leads a linear model of two classes away from y."""
    weights = model.layer.weight.detach()
    return (weights[1 - y] - weights[y]).reshape(-1, 1, 6, 8)


def test_linf_attacks_of_a_linear_model_have_a_closed_form(build, inputs):
    model = build("linear")
    x, y = inputs()
    corner = (x + 0.05 * uphill(model, y).sign()).clamp(0.0, 1.0)
    attacks = [
        FGSM(epsilon=0.05),
        pgd(Linf, 5, 0.01, 0.05),
        pgd(Linf, 10, 0.01, 0.05, random_start=True),  # ten steps cross the whole ball
    ]
    for attack in attacks:
        torch.testing.assert_close(attack(model, x, y, generator=seeded()), corner)


def test_l2_attacks_of_a_linear_model_have_a_closed_form(build, inputs):
    model = build("linear")
    x, y = inputs()
    direction = uphill(model, y)
    unit = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    wide = {"norm": L2, "bounds": (-9.0, 9.0)}
    found = FGSM(epsilon=0.3, **wide)(model, x, y)
    torch.testing.assert_close(found, x + 0.3 * unit)
    walk = PGD(step=0.1, epsilon=0.25, steps=4, **wide).trajectory(model, x, y)
    for iterate, length in zip(walk, (0.1, 0.2, 0.25, 0.25), strict=True):
        torch.testing.assert_close(iterate, x + length * unit)
