"""The miniature of a run: every kind of stage has a pace, and paces add up to a run."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from servax.experiments import estimate, load_recipe
from servax.experiments.estimate import Pace, Speed, kind_of, rehearse, survey
from servax.experiments.fold import RunData
from servax.experiments.run import Plan
from servax.stages import Watcher

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def plan(recipe_file: Path, tmp_path: Path) -> Plan:
    recipe = load_recipe(recipe_file)
    adversarial = replace(recipe.adversarial, epsilons=(0.02, 0.04))
    recipe = replace(recipe, adversarial=adversarial, held_out=(1, 3))
    return Plan.of(RunData.of(recipe, tmp_path / "run", Watcher()), {})


@pytest.mark.slow
def test_every_kind_of_stage_has_a_pace_and_nothing_is_left_behind(
    plan: Plan, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    found = rehearse(plan, tick=lambda done, total: told.append((done, total)))
    assert set(found.speeds) == {kind_of(task.stage.name) for task in plan.tasks}
    assert all(speed.unit > 0 and speed.begin >= 0 for speed in found.speeds.values())
    for name in ("target", "ssad", "adversarial-similarity"):
        assert found.speeds[name].epoch > 0
    assert found.apart > 0.0
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))
    assert told[0][1] < len(plan.tasks) / 2 + 3  # one fold of two, one ε of two
    assert not (tmp_path / "run").exists()
    seen = survey(plan)
    left = [found.seconds(row) for row in seen.rows]
    assert seen.seconds_left(found) == pytest.approx(sum(left) + found.apart)


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("fold 1: target", "target"),
        ("fold 12, seed 3: adaptive-pgd-quantise-4", "adaptive-pgd-quantise"),
        ("fold 1: adversarial-vanilla-0.003", "adversarial-vanilla"),
        (
            "fold 1: adaptive-fgsm-adversarial-similarity-0.015",
            "adaptive-fgsm-adversarial-similarity",
        ),
        ("fold 1: ssad-residual", "ssad-residual"),
    ],
)
def test_strengths_of_a_stage_are_one_kind(stage: str, kind: str) -> None:
    assert kind_of(stage) == kind


def test_the_rest_of_a_stage_is_its_share(plan: Plan) -> None:
    row = next(row for row in survey(plan).rows if row.stage == "fold 1: target")
    whole = 4.0 + 0.5 * row.cost + 2.0 * row.epochs
    pace = Pace({"target": Speed(unit=0.5, begin=4.0, epoch=2.0)}, apart=1.0)
    assert pace.seconds(row) == whole
    assert pace.seconds(replace(row, left=row.cost / 4)) == pytest.approx(whole / 4)
    assert pace.seconds(replace(row, left=0.0)) == 0.0


def test_a_stage_is_told_apart_into_beginning_steps_and_epochs(plan: Plan) -> None:
    target = next(task for task in plan.tasks if task.stage.name == "fold 1: target")
    task = replace(target, steps=6, epochs=2, cost=6.0)  # 5 s of warming up, then 1 s a step
    moments = itertools.accumulate([0.0, 6.0, 1.0, 1.0, 4.0, 1.0, 1.0, 3.0])
    assert estimate._speed(task, list(moments)) == Speed(unit=1.0, begin=5.0, epoch=3.0)
    attack = replace(target, kind="attack", steps=3, epochs=1, cost=6.0)
    moments = itertools.accumulate([0.0, 4.0, 2.0, 2.0, 1.0])
    assert estimate._speed(attack, list(moments)) == Speed(unit=1.0, begin=3.0)
