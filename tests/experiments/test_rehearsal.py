"""The miniature of a run: every kind of stage has a pace, and paces add up to a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from servax.evaluation.suites import AttackGrid
from servax.experiments import load_recipe, rehearsal
from servax.experiments.overview import survey
from servax.experiments.plan import Plan
from servax.experiments.prepared import Prepared
from servax.experiments.rehearsal import Rehearsal, StagePace, kind_of, rehearse
from servax.stages import Watcher


@pytest.fixture
def plan(recipe_file: Path, tmp_path: Path) -> Plan:
    recipe = load_recipe(recipe_file)
    adversarial = replace(recipe.adversarial, epsilons=(0.02, 0.04))
    recipe = replace(recipe, adversarial=adversarial, held_out=(1, 3))
    return Plan.of(Prepared.of(recipe, tmp_path / "run", Watcher()), {})


@pytest.mark.slow
def test_every_kind_of_stage_has_a_pace_and_nothing_is_left_behind(
    plan: Plan, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    found = rehearse(plan, begin=2.0, tick=lambda done, total: told.append((done, total)))
    assert set(found.paces) == {kind_of(task.stage.name) for task in plan.tasks}
    assert all(pace.step > 0 and pace.begin >= 0 for pace in found.paces.values())
    for name in ("target", "ssad", "adversarial-similarity"):
        assert found.paces[name].epoch > 0
    assert found.apart == found.report + 2.0 > 2.0
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
    pace = StagePace(begin=4.0, step=0.5, epoch=2.0)
    whole = 4.0 + 0.5 * row.steps + 2.0 * row.epochs
    foretold = Rehearsal({"target": pace}, report=1.0)
    assert foretold.seconds(row) == whole
    assert foretold.seconds(replace(row, left=row.cost / 4)) == pytest.approx(whole / 4)


def test_steps_that_are_not_scored_count_as_such() -> None:
    # Scored at 3, 6, 9, 12, 15 and 30 of 30; the miniature's steps 3 and 6 are, the others not.
    grid = AttackGrid()
    assert len(grid.adaptive_ks) == 6
    plain, scored = 1.0, 6.0
    between = [plain, scored, plain, plain, scored]
    assert rehearsal._partly_scored(between, grid) == pytest.approx(1.0 + 5.0 * 6 / 30)


def test_defences_that_the_miniature_left_out_are_scored_too(plan: Plan) -> None:
    small = Plan.of(rehearsal.miniature(plan.prepared, plan.prepared.folder), {})
    shown, every = (len(p.prepared.recipe.defences) for p in (small, plan))
    assert every == shown + 1
    more = rehearsal._other_defences(1.0, "clean", plan, small)
    assert more == pytest.approx(1.0 / (1 + shown))
    assert 0 < rehearsal._other_defences(1.0, "pgd", plan, small) < more
