"""The AutoAttack schedule; its parts have tests of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from servax.attacks import APGD, AutoAttack, Foolbox, Square, TargetedAPGD
from servax.errors import SettingError
from servax.perturbation import L2, Linf


class Planes(nn.Module):
    """A linear classifier of (B, 1, 6, 8): whether an attack can succeed has a closed form."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(3)
        self.weight = torch.randn(classes, 48, generator=draws, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
@pytest.mark.parametrize(("norm", "epsilon"), [(Linf, 0.02), (L2, 0.15)])
def test_it_breaks_what_can_be_broken_and_nothing_else(classes, norm, epsilon):
    model = Planes(classes)
    x = 0.2 + 0.6 * torch.rand(16, 1, 6, 8, generator=seeded(4), dtype=torch.float64)
    logits = model(x)
    y = logits.argmax(dim=1)
    y[0] = (y[0] + 1) % classes
    apart = model.weight - model.weight[y].unsqueeze(1)
    length = apart.abs().sum(dim=-1) if norm is Linf else apart.norm(dim=-1)
    distance = (logits.gather(1, y.unsqueeze(1)) - logits) / length
    distance[torch.arange(16), y] = float("inf")
    attack = AutoAttack(epsilon=epsilon, norm=norm, steps=20, queries=100)
    outcome = attack.run(model, x, y, generator=seeded())
    nearest = distance.amin(dim=1)
    assert torch.equal(outcome.fooled, nearest < epsilon)
    assert outcome.fooled.any()
    assert not outcome.fooled.all()
    assert torch.equal(outcome.adversarial[0], x[0])
    assert int(outcome.attempt[0]) == -1
    again = attack(model, x, y, generator=seeded())
    assert torch.equal(again, outcome.adversarial)


def test_no_part_of_it_breaks_what_it_does_not(build, inputs):
    model = build("conv", torch.float32)
    x, _ = inputs(torch.float32, 12)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    attack = AutoAttack(epsilon=0.07, steps=15, queries=60)
    fooled = attack.run(model, x, y, generator=seeded()).fooled
    assert fooled.any()
    assert not fooled.all()
    for part in attack.attempts:
        alone = model(part(model, x, y, generator=seeded(1))).argmax(dim=1) != y
        assert not (alone & ~fooled).any()


def test_the_parts_are_those_of_the_paper_and_share_all_settings():
    attack = AutoAttack(epsilon=0.3, norm=L2, bounds=(-1.0, 2.0), labels="predicted")
    kinds = [type(part) for part in attack.attempts]
    assert kinds == [APGD, TargetedAPGD, Foolbox, Square]
    for part in attack.attempts:
        assert (part.epsilon, part.norm) == (0.3, L2)
        assert (part.bounds, part.labels) == ((-1.0, 2.0), "predicted")
    assert attack.attempts[-1].queries == 5000
    assert attack.attempts[0].steps == 100


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epsilon": -1.0}, r"epsilon is -1\.0"),
        ({"steps": 0}, "steps is 0"),
        ({"queries": 0}, "queries is 0"),
        ({"norm": "L2"}, "norm is 'L2'"),
        ({"bounds": (1.0, 0.0)}, "bounds is"),
    ],
)
def test_settings_of_autoattack_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        AutoAttack(**settings)


def test_the_rand_version_is_two_attacks_and_needs_no_foolbox(monkeypatch):
    monkeypatch.setattr("servax.attacks.ensemble.Foolbox", None)
    attack = AutoAttack(version="rand", steps=7, epsilon=0.1, norm=L2)
    assert [(type(part), part.loss, part.steps) for part in attack.attempts] == [
        (APGD, "cross-entropy", 7),
        (APGD, "dlr", 7),
    ]
    assert attack.ball == L2(0.1)
    with pytest.raises(SettingError, match="version is 'plus', expected one of rand, standard"):
        AutoAttack(version="plus")
