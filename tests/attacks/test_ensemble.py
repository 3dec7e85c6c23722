"""Ensembles: who is attacked by what, what is kept, what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from attack_table import InTurn
from torch import nn

from servax.attacks import APGD, FGSM, PGD, Attack, Restarts, WaveformPGD, margin
from servax.errors import ServaxError, SettingError
from servax.perturbation import L2, Ball, Linf

EVERYWHERE = (-math.inf, math.inf)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, kw_only=True)
class Add(Attack):
    """Moves each input by `by`, and notes whom it was given."""

    bounds: tuple[float, float] = EVERYWHERE
    by: float
    reach: float = 10.0
    given: list

    @property
    def ball(self) -> Ball:
        return Linf(self.reach)

    def iterates(self, problem) -> Iterator[torch.Tensor]:
        self.given.append(problem.x[:, 0].tolist())
        yield problem.x + self.by


class Wells(nn.Module):
    """Class 0 but near 10, 20 and 30; inputs (B, 1). The margin falls with the distance."""

    def forward(self, x):
        apart = torch.stack([(x - well).abs() for well in (10.0, 20.0, 30.0)]).amin(dim=0)
        return torch.cat([torch.zeros_like(x), 1.5 - apart], dim=1)


def test_each_attempt_gets_what_the_ones_before_left_correct():
    x = torch.tensor([[9.0], [7.0], [14.0], [45.0]], dtype=torch.float64)
    given = []
    attacks = [Add(by=3.0, given=given), Add(by=-4.0, given=given), Add(by=0.1, given=given)]
    outcome = InTurn(attacks).run(Wells(), x, torch.zeros(4, dtype=torch.int64))
    # 9 is wrong as it is; 7 + 3 = 10; 14 - 4 = 10; 45 - 4 is the nearest to a well.
    assert given == [[7.0, 14.0, 45.0], [14.0, 45.0], [45.0]]
    assert outcome.fooled.tolist() == [True, True, True, False]
    assert outcome.attempt.tolist() == [-1, 0, 1, -1]
    assert outcome.adversarial[:, 0].tolist() == pytest.approx([9.0, 10.0, 10.0, 41.0])


def test_of_what_does_not_fool_the_highest_margin_is_kept():
    x = torch.tensor([[5.0]], dtype=torch.float64)
    attacks = [Add(by=by, given=[]) for by in (-2.0, 3.0, 1.0)]
    found = InTurn(attacks)(Wells(), x, torch.tensor([0]))
    assert found.tolist() == [[8.0]]
    found = InTurn(attacks[:1])(Wells(), x, torch.tensor([0]))
    assert found.tolist() == [[5.0]]


def test_a_targeted_ensemble_leads_towards_the_class():
    x = torch.tensor([[5.0], [10.0]], dtype=torch.float64)
    attacks = [Add(by=by, given=[], targeted=True) for by in (-2.0, 5.0)]
    outcome = InTurn(attacks).run(Wells(), x, torch.tensor([1, 1]))
    assert outcome.adversarial.tolist() == [[10.0], [10.0]]
    assert outcome.attempt.tolist() == [1, -1]


def test_no_attempt_follows_when_none_stands():
    given = []
    Restarts(Add(by=5.0, given=given), 4)(
        Wells(), torch.tensor([[5.0]], dtype=torch.float64), torch.tensor([0])
    )
    assert given == [[5.0]]


def test_an_attempt_that_leaves_its_own_ball_is_found_out():
    attacks = [Add(by=3.0, reach=1.0, given=[]), Add(by=0.0, reach=9.0, given=[])]
    with pytest.raises(ServaxError, match=r"^the attack left its reach: distance 3 .* at most 1,"):
        InTurn(attacks)(Wells(), torch.tensor([[5.0]]), torch.tensor([0]))


def correct(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_more_restarts_fool_no_fewer_and_begin_with_the_same(build, inputs, norm):
    model = build("conv")
    x, _ = inputs(batch=40)
    y = correct(model, x)
    epsilon = 0.05 if norm is Linf else 0.3
    attack = PGD(epsilon=epsilon, step=epsilon / 3, steps=3, norm=norm, random_start=True)
    once, often = (Restarts(attack, n).run(model, x, y, generator=seeded()) for n in (1, 6))
    assert (often.fooled >= once.fooled).all()
    assert torch.equal(often.adversarial[once.fooled], once.adversarial[once.fooled])
    with torch.no_grad():
        before, after = margin(model(once.adversarial), y), margin(model(often.adversarial), y)
    assert (after >= before).all()
    assert (after > before).any()


def test_an_ensemble_is_the_worst_case_of_its_attacks(build, inputs):
    model = build("conv")
    x, _ = inputs(batch=40)
    y = correct(model, x)
    attacks = [FGSM(epsilon=0.05), PGD(epsilon=0.08, step=0.02), APGD(epsilon=0.06, steps=20)]
    outcome = InTurn(attacks).run(model, x, y, generator=seeded())
    called = InTurn(attacks)(model, x, y, generator=seeded())
    for attack in attacks[:2]:
        alone = correct(model, attack(model, x, y)) != y
        assert (outcome.fooled >= alone).all()
    assert torch.equal(outcome.fooled, correct(model, outcome.adversarial) != y)
    assert torch.equal(called, outcome.adversarial)
    assert InTurn(attacks).ball == Linf(0.08)


def test_predicted_labels_and_bounds_are_those_of_the_attacks(build, inputs):
    model = build("conv")
    x, y = inputs()
    attack = PGD(labels="predicted", bounds=(-1.0, 2.0), epsilon=0.1, step=0.03)
    ensemble = InTurn([attack])
    assert (ensemble.bounds, ensemble.labels, ensemble.targeted) == (
        (-1.0, 2.0),
        "predicted",
        False,
    )
    outcome = ensemble.run(model, x, y)
    said = correct(model, x)
    assert torch.equal(outcome.fooled, correct(model, outcome.adversarial) != said)


def test_a_budget_in_decibels_may_be_restarted():
    model = nn.Linear(30, 2)
    x = 0.1 * torch.randn(3, 30, generator=seeded())
    attack = WaveformPGD(snr_db=20.0, steps=3, sixteen_bit=False, random_start=True)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    found = Restarts(attack, 2)(model, x, y, generator=seeded())
    assert ((found - x).norm(dim=1) <= 0.1 * x.norm(dim=1) * (1 + 1e-5)).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: InTurn([]), "attacks is [], expected at least one attack."),
        (
            lambda: InTurn([FGSM(), PGD(bounds=(-1.0, 1.0))]),
            "the attacks' bounds is [(0.0, 1.0), (-1.0, 1.0)], expected the same for all.",
        ),
        (
            lambda: InTurn([FGSM(targeted=True), PGD()]),
            "the attacks' targeted is [True, False], expected the same for all.",
        ),
        (
            lambda: InTurn([FGSM(labels="predicted"), PGD()]),
            "the attacks' labels is ['predicted', 'true'], expected the same for all.",
        ),
        (lambda: Restarts(PGD(), 0), "count is 0, expected a whole number of at least 1."),
    ],
)
def test_ensembles_that_cannot_be_are_refused(make, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        make()
