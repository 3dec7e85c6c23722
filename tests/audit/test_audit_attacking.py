"""One threat against systems: what it costs, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from servax.attacks import APGD, FGSM, PGD
from servax.corpora import Selection
from servax.evaluation.checks import Case
from servax.evaluation.checks.of_gradients import zero_gradients
from servax.evaluation.dataset import EvaluationSet, gather
from servax.evaluation.engine import AttackEngine, Identity
from servax.evaluation.loading import load_system
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.evaluation.threats import Budget, Threat

WHO = Identity("Bands", 1, 0)


class Seen(nn.Module):
    """Keeps the inputs that a gradient was taken for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if torch.is_grad_enabled() and x.requires_grad:
            self.rows += len(x)
        return logits


@pytest.fixture
def system(own: str) -> System:
    return replace(load_system(f"{own}:Bands"), name=UNDEFENDED)


@pytest.fixture
def dataset(own: str, voices: Path) -> EvaluationSet:
    selection = Selection(corpus=str(voices), groups=3, utterances=8)
    return gather(load_system(f"{own}:Bands"), selection)[1]


def engine(dataset: EvaluationSet) -> AttackEngine:
    return AttackEngine(dataset=dataset, identity=WHO, batch_size=3)


def attacked(
    threat: Threat, system: System, dataset: EvaluationSet, predictions: Tensor | None = None
) -> tuple[Any, Seen]:
    seen = Seen(system.model)
    if predictions is None:
        predictions = system.model(dataset.x).argmax(1)
    found = engine(dataset).on_system(threat, replace(system, model=seen), predictions)
    return found, seen


def threat(attack: Any, **changes: Any) -> Threat:
    given = {"name": "x", "knowledge": "adaptive", "attack": attack, "everyone": False}
    return Threat(**given | changes)


def test_a_sweep_of_fgsm_costs_one_gradient(system: System, dataset: EvaluationSet) -> None:
    sizes = (0.01, 0.04, 0.06)
    found, seen = attacked(threat(FGSM(epsilon=0.06), sweep=sizes), system, dataset)
    assert seen.rows == 8
    assert found.measures["gradients_per_utterance"] == 1
    assert found.measures["queries_per_utterance"] == 1
    for size in sizes:
        moved = FGSM(epsilon=size)(system.model, dataset.x, dataset.y)
        expected = [dataset.names[k] for k in system.model(moved).argmax(1).tolist()]
        rows = found.frame[found.frame["strength"] == size]
        assert rows["prediction"].tolist() == expected


def test_what_is_wrong_already_costs_nothing_and_stays(
    system: System, dataset: EvaluationSet
) -> None:
    predictions = dataset.y.clone()
    predictions[[1, 4, 7]] = (predictions[[1, 4, 7]] + 1) % 4
    pgd = PGD(step=0.02, epsilon=0.06, steps=5)
    found, seen = attacked(threat(pgd), system, dataset, predictions)
    assert seen.rows == 5 * 5
    assert found.measures["attacked"] == 5
    names = [dataset.names[k] for k in predictions[[1, 4, 7]].tolist()]
    assert found.frame["prediction"].iloc[[1, 4, 7]].tolist() == names
    assert torch.equal(found.inputs[[1, 4, 7]], dataset.x[[1, 4, 7]])


def test_nothing_to_attack_is_no_trouble(system: System, dataset: EvaluationSet) -> None:
    wrong = (dataset.y + 1) % 4
    found, seen = attacked(threat(PGD()), system, dataset, wrong)
    assert seen.rows == 0
    assert found.measures["attacked"] == found.measures["moved"] == 0
    assert (found.frame["prediction"] != found.frame["label"]).all()


def test_who_falls_in_a_small_ball_is_not_attacked_in_a_larger(
    system: System, dataset: EvaluationSet
) -> None:
    one, seen = attacked(threat(APGD(epsilon=0.2, steps=5)), system, dataset)
    assert (one.frame["prediction"] != one.frame["label"]).all()
    swept = threat(APGD(epsilon=0.4, steps=5), sweep=(0.2, 0.3, 0.4))
    found, again = attacked(swept, system, dataset)
    assert again.rows == seen.rows
    assert (found.frame["prediction"] != found.frame["label"]).all()
    assert float((found.inputs - dataset.x).abs().max()) <= 0.2 + 1e-6


def test_a_source_is_attacked_once_whoever_is_scored(
    system: System, dataset: EvaluationSet
) -> None:
    source = Seen(system.model)
    turned = System(name="turned", model=nn.Sequential(system.model, nn.Softmin(dim=1)))
    pgd = threat(PGD(step=0.02, epsilon=0.06, steps=4), knowledge="oblivious")
    found = engine(dataset).on_source(pgd, source, (system, turned))
    assert source.rows == 4 * 8
    assert found.frame.groupby("defence").size().to_dict() == {"turned": 8, "undefended": 8}
    expected = turned.model(found.inputs).argmax(1).tolist()
    rows = found.frame[found.frame["defence"] == "turned"]
    assert rows["prediction"].tolist() == [dataset.names[k] for k in expected]


def test_padded_frames_are_left_alone(system: System, dataset: EvaluationSet) -> None:
    mask = torch.arange(40) < 26
    masked = EvaluationSet(**vars(dataset) | {"mask": mask.expand(8, 1, 1, 40)})
    found, _ = attacked(threat(PGD(step=0.02, epsilon=0.06, steps=2)), system, masked)
    change = found.inputs - dataset.x
    assert bool((change[..., 26:] == 0).all())
    assert bool((change[..., :26] != 0).any())


def test_checks_leave_padded_frames_out(system: System, dataset: EvaluationSet) -> None:
    class First(nn.Module):  # hears the frames that carry sound alone
        def forward(self, x: Tensor) -> Tensor:
            heard: Tensor = system.model(x[..., :26])
            return heard

    mask = (torch.arange(40) < 26).expand(8, 1, 1, 40)
    masked = EvaluationSet(**vars(dataset) | {"mask": mask})
    suite = Suite("smoke", Budget(radius=0.03))
    for heard, blind in ((dataset, 14 / 40), (masked, 0.0)):
        deaf = replace(system, model=First().eval())
        draws = torch.Generator().manual_seed(0)
        case = Case.of(deaf, heard, suite, batch_size=8, generator=draws)
        found = zero_gradients(case).evidence["margin_elements"]
        assert found == pytest.approx(blind)
        case = Case.of(system, heard, suite, batch_size=8, generator=draws)
        moved = (case.attacked != case.x).any(dim=0)[0, 0]
        assert bool(moved[26:].any()) == (heard is dataset)
        assert bool(moved[:26].any())


@pytest.mark.parametrize("radius", [1e-6, 0.05, 0.9])
def test_led_to_a_class_is_what_comes_out_as_it(
    system: System, dataset: EvaluationSet, radius: float
) -> None:
    for goal in ("angry", "sad"):
        attack = APGD(epsilon=radius, steps=20, targeted=True)
        # What is of the class already is left out.
        right = (system.model(dataset.x).argmax(1) == dataset.y) & (
            dataset.y != dataset.names.index(goal)
        )
        towards = threat(attack, name=f"towards-{goal}", towards=goal)
        said = system.model(dataset.x).argmax(1)
        found = engine(dataset).on_system(towards, system, said)
        assert found.measures["towards"] == goal
        counted = found.frame["prediction"][right.tolist()] == goal
        assert found.measures["success_rate"] == pytest.approx(counted.mean())
        if radius != 0.05:
            assert found.measures["success_rate"] == (radius > 0.1)
        untouched = found.frame["prediction"][(~right).tolist()]
        names = [dataset.names[k] for k in system.model(dataset.x).argmax(1)[~right]]
        assert untouched.tolist() == names
