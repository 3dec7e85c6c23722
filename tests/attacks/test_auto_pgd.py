"""Auto-PGD against torchattacks' copy of the authors' code, the paper and closed forms."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import nn

from servax.attacks import APGD, PGD, TargetedAPGD, margin
from servax.attacks.auto_pgd import checkpoints
from servax.errors import SettingError
from servax.perturbation import L2, Linf

RADIUS = {Linf: 0.1, L2: 0.6}
norms = pytest.mark.parametrize("norm", [Linf, L2])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def float64():
    """Let torchattacks, which makes tensors without a type, compute in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def classifier(classes):
    """Return a network into `classes` classes of inputs (B, 1, 6, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, classes)
        ).double()


def task(classes, inputs, batch=24):
    model = classifier(classes)
    x, _ = inputs(batch=batch)
    with torch.no_grad():
        return model, x, model(x).argmax(dim=1)


def margins(model, z, y):
    with torch.no_grad():
        return margin(model(z), y)


def official(torchattacks, name, model, norm, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(torchattacks, name)(
            model, norm=norm.__name__, eps=RADIUS[norm], seed=7, **settings
        )


def on_the_surface(self, like, generator):
    """Draw as torchattacks draws its starts: uniform, then scaled to the surface of the ball."""
    draw = 2 * torch.rand(like.shape) - 1 if isinstance(self, Linf) else torch.randn(like.shape)
    return self.radius * draw / self.norm(draw).view(-1, 1, 1, 1)


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@norms
def test_the_highest_loss_is_where_the_authors_code_finds_it(
    torchattacks, inputs, monkeypatch, float64, norm, loss
):
    model, x, y = task(4, inputs)
    oracle = official(torchattacks, "APGD", model, norm, steps=100, loss=loss)
    torch.random.manual_seed(7)
    theirs = oracle.attack_single_run(x, y)[0].detach()
    monkeypatch.setattr(norm, "sample", on_the_surface)
    torch.random.manual_seed(7)
    attack = APGD(
        epsilon=RADIUS[norm],
        norm=norm,
        loss="dlr" if loss == "dlr" else "cross-entropy",
        early_stop=False,
    )
    ours = attack(model, x, y, generator=seeded())
    # Once fooled, DLR is flat (1 wherever y comes third): rounding decides which point is kept.
    same = margins(model, theirs, y) < 0 if loss == "dlr" else torch.ones_like(y, dtype=torch.bool)
    assert int(same.sum()) >= 4
    torch.testing.assert_close(ours[same], theirs[same], rtol=0.0, atol=1e-6)
    assert not torch.equal(ours[same], x[same])


@norms
def test_apgd_is_not_weaker_than_torchattacks_at_equal_steps(torchattacks, inputs, norm):
    model, x, y = task(4, inputs)
    oracle = official(torchattacks, "APGD", model.float(), norm, steps=20)
    theirs = oracle.attack_single_run(x.float(), y)[0].detach().double()
    ours = APGD(epsilon=RADIUS[norm], norm=norm, steps=20, early_stop=False)(
        model.double(), x, y, generator=seeded()
    )
    assert margins(model, ours, y).mean() >= margins(model, theirs, y).mean() - 1e-3


@pytest.mark.parametrize("classes", [4, 6])
@norms
def test_targeted_apgd_fools_what_torchattacks_fools(torchattacks, inputs, norm, classes):
    model, x, y = task(classes, inputs)
    oracle = official(torchattacks, "APGDT", model.float(), norm, steps=20, n_classes=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = oracle(x.float(), y).double()
    attack = TargetedAPGD(epsilon=RADIUS[norm], norm=norm, steps=20)
    ours = attack(model.double(), x, y, generator=seeded())
    fooled = margins(model, ours, y) > 0
    assert (fooled >= (margins(model, theirs, y) > 0)).all()
    assert 0 < int(fooled.sum()) < len(x)


@norms
@pytest.mark.parametrize("loss", ["cross-entropy", "dlr", "margin"])
def test_a_linear_model_is_led_to_its_closed_form(norm, loss):
    weight = torch.randn(2, 12, generator=seeded(3), dtype=torch.float64)
    model = nn.Linear(12, 2, bias=False).double()
    model.weight.data = weight
    x = torch.randn(5, 12, generator=seeded(4), dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1, 1])
    uphill = weight[1 - y] - weight[y]
    away = uphill.sign() if norm is Linf else uphill / uphill.norm(dim=1, keepdim=True)
    settings = {"epsilon": 0.3, "norm": norm, "loss": loss, "bounds": (-math.inf, math.inf)}
    for attack in (
        APGD(early_stop=False, steps=100, **settings),
        PGD(step=0.1, steps=100, **settings),
    ):
        found = attack(model, x, y, generator=seeded())
        torch.testing.assert_close(found, x + 0.3 * away, rtol=0.0, atol=1e-6)


@norms
@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_targeted_apgd_finds_the_nearest_other_class_of_a_linear_model(norm, classes):
    model = nn.Linear(12, classes).double()
    model.weight.data = torch.randn(classes, 12, generator=seeded(3), dtype=torch.float64)
    model.bias.data = torch.randn(classes, generator=seeded(5), dtype=torch.float64)
    x = torch.randn(30, 12, generator=seeded(4), dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(dim=1)
    # Reached is class k iff  epsilon |w_k - w_y|_dual > z_y - z_k.
    apart = model.weight.detach()[None] - model.weight.detach()[y][:, None]
    dual = apart.abs().sum(dim=2) if norm is Linf else apart.norm(dim=2)
    needed = (logits.gather(1, y[:, None]) - logits) / dual
    needed = needed.scatter(1, y[:, None], math.inf).amin(dim=1)
    epsilon = float(needed.median()) * 1.001
    attack = TargetedAPGD(epsilon=epsilon, norm=norm, steps=40, bounds=(-math.inf, math.inf))
    found = attack(model, x, y, generator=seeded())
    near = (needed - epsilon).abs() < 1e-2 * epsilon
    assert torch.equal((margins(model, found, y) > 0)[~near], (needed < epsilon)[~near])


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 33, 50, 100, 1000])
def test_checkpoints_are_those_of_section_3(steps):
    expected, shares = [], [0.0, 0.22]
    while shares[-1] <= 1.0 + 1e-12:
        expected.append(math.ceil(round(shares[-1] * steps, 6)))
        shares.append(round(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06), 6))
    assert checkpoints(steps) == sorted(set(expected))


def test_checkpoints_of_a_hundred_steps():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_the_result_is_never_weaker_than_an_earlier_iterate(inputs):
    model, x, y = task(4, inputs)
    attack = APGD(epsilon=0.1, steps=30, early_stop=False, loss="margin")
    walk = list(attack.trajectory(model, x, y, generator=seeded()))
    values = torch.stack([margins(model, z, y) for z in walk])
    assert len(walk) == 31
    assert (values.diff(dim=0) >= 0).all()


def test_more_steps_than_pgd_needs_no_step_to_be_chosen(inputs):
    model, x, y = task(4, inputs)
    ours = APGD(epsilon=0.1, steps=50, early_stop=False)(model, x, y, generator=seeded())
    for step in (0.002, 0.01, 0.05):
        pgd = PGD(epsilon=0.1, step=step, steps=50)(model, x, y)
        assert margins(model, ours, y).mean() >= margins(model, pgd, y).mean() - 1e-3


def test_leaving_fools_whatever_staying_fools(inputs):
    model, x, y = task(4, inputs)
    for kind in (APGD, TargetedAPGD):
        stay, leave = (
            margins(model, kind(epsilon=0.12, random_start=False, early_stop=s)(model, x, y), y) > 0
            for s in (False, True)
        )
        assert (leave >= stay).all()
        assert 0 < int(stay.sum()) < len(x)


def test_fewer_targets_try_the_most_likely_classes_only(inputs):
    x, _ = inputs()
    x = x.flatten(1)
    model = nn.Linear(48, 5).double()
    model.weight.data = torch.randn(5, 48, generator=seeded(3), dtype=torch.float64)
    with torch.no_grad():
        first, second = model(x).topk(2, dim=1).indices.unbind(1)
    attack = TargetedAPGD(epsilon=0.5, targets=1, random_start=False)
    with torch.no_grad():
        said = model(attack(model, x, first)).argmax(dim=1)
    assert torch.equal(said, second)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: APGD(steps=0), "steps is 0, expected a whole number of at least 1."),
        (lambda: APGD(rho=1.5), "rho is 1.5, expected a number in (0, 1), .75 in the paper."),
        (
            lambda: APGD(loss="dlt"),
            "loss is 'dlt', expected one of cross-entropy, dlr, margin. Did you mean 'dlr'?",
        ),
        (
            lambda: APGD(norm="L2"),
            "norm is 'L2', expected servax.perturbation.Linf, L2 or SignalToNoise (the class).",
        ),
        (lambda: TargetedAPGD(epsilon=-1.0), "epsilon is -1.0, expected a finite number of at "),
        (lambda: TargetedAPGD(targets=0), "targets is 0, expected a whole number of at least 1."),
        (
            lambda: TargetedAPGD(targeted=True),
            "targeted is True, expected False: this attack leads away from y through each other "
            "class; for a wanted class use APGD(targeted=True).",
        ),
    ],
)
def test_settings_outside_their_rule_are_refused(make, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
        make()
