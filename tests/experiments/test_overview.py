"""How far a run is, on folders whose stages are written by hand; the command line around it."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from servax.cli import main
from servax.cli.output import duration
from servax.errors import ServaxError
from servax.experiments import estimate, load_recipe, run
from servax.experiments.estimate import Overview, Row, Speed, rehearse, survey
from servax.experiments.fold import RunData
from servax.experiments.run import Plan
from servax.stages import Holder, Task, Watcher, ended, held, holder
from servax.stages.lock import LOCK

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def plan(recipe_file: Path, folder: Path) -> Plan:
    recipe = replace(load_recipe(recipe_file), held_out=(3,))
    return Plan.of(RunData.of(recipe, folder, Watcher()), {})


def task(plan: Plan, name: str) -> Task:
    return next(task for task in plan.tasks if task.stage.name == f"fold 3: {name}")


def row(seen: Overview, name: str) -> Row:
    return next(row for row in seen.rows if row.stage == f"fold 3: {name}")


def done(task: Task, result: dict[str, object], *, seconds: float, advanced: int) -> None:
    task.stage.open()
    task.stage.complete(result, seconds=seconds, advanced=advanced)


def log(task: Task, epochs: int, *, checkpoint: bool = True) -> None:
    task.stage.open()
    lines = [{"epoch": i, "train/loss": 9.0, "validation/uar": 0.5 + i} for i in range(epochs)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (task.stage.folder / "log.jsonl").write_text(text, encoding="utf-8")
    if checkpoint:
        (task.stage.folder / "checkpoint.pt").write_bytes(b"here")


def test_a_run_without_a_folder_waits(plan: Plan, folder: Path) -> None:
    seen = survey(plan)
    assert [r.stage for r in seen.rows] == [t.stage.name for t in plan.tasks]
    assert {r.state for r in seen.rows} == {"waiting"}
    assert row(seen, "ssad").needs == ("fold 3: extractor",)
    assert (seen.share, seen.seconds_left(), seen.holder) == (0.0, None, None)
    assert not folder.exists()


def test_the_pace_is_learnt_from_what_is_done(plan: Plan) -> None:
    target, clean = task(plan, "target"), task(plan, "clean")
    whole = sum(t.cost for t in plan.tasks)
    # It stopped early, after half of its steps: 6 s for half of its cost.
    result = {"best_epoch": 1, "best": 1.5, "epochs": 2}
    log(target, 2, checkpoint=False)
    done(target, result, seconds=6.0, advanced=target.steps // 2)
    each = 6.0 / (target.cost * (target.steps // 2) / target.steps)
    seen = survey(plan)
    assert seen.pace.speeds == {"train": Speed(pytest.approx(each))}
    assert seen.seconds_left() == pytest.approx((whole - target.cost) * each)
    assert seen.share == pytest.approx(target.cost / whole)
    told = row(seen, "target")
    assert (told.state, told.seconds, told.epoch, told.result) == ("done", 6.0, 2, result)
    assert told.terms == {"uar": 1.5}
    # An attack is done too: the kinds have paces of their own.
    done(clean, {"rows": 8}, seconds=1.0, advanced=clean.steps)
    seen = survey(plan)
    rest = [t for t in plan.tasks if t not in (target, clean)]
    trainings = sum(t.cost for t in rest if t.kind == "train")
    attacks = sum(t.cost for t in rest if t.kind == "attack")
    assert seen.pace.speeds["attack"].unit == pytest.approx(1.0 / clean.cost)
    expected = trainings * each + attacks / clean.cost
    assert seen.seconds_left() == pytest.approx(expected)


def test_a_training_left_half_way_counts_what_is_left(plan: Plan) -> None:
    target, extractor, clean = (task(plan, name) for name in ("target", "extractor", "clean"))
    log(target, 2)
    log(extractor, 1, checkpoint=False)  # killed before its first checkpoint
    clean.stage.open()  # attacks start again
    later = time.time() + 3600
    seen = survey(plan, now=later)
    told = row(seen, "target")
    assert (told.state, told.epoch, told.epochs) == ("begun", 2, 3)
    assert told.left == pytest.approx(target.cost / 3)
    assert told.terms == {"uar": 1.5}
    for name, at in (("extractor", extractor), ("clean", clean)):
        assert (row(seen, name).state, row(seen, name).epoch) == ("begun", 0)
        assert row(seen, name).left == at.cost
    assert seen.share == pytest.approx(target.cost * 2 / 3 / sum(t.cost for t in plan.tasks))


def test_what_changed_lately_is_running(plan: Plan) -> None:
    log(task(plan, "target"), 1)
    assert row(survey(plan, now=time.time() + 100), "target").state == "running"
    assert row(survey(plan, now=time.time() + 140), "target").state == "begun"


def test_the_lock_tells_who_is_at_work(plan: Plan, folder: Path) -> None:
    log(task(plan, "target"), 1)
    later = time.time() + 3600
    with held(folder):
        seen = survey(plan, now=later)
        assert row(seen, "target").state == "running"  # an epoch may take hours
        assert seen.holder is not None
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        survey(plan)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert row(survey(plan), "target").state == "begun"  # and no minute is waited for
    assert survey(plan).holder is None


def test_a_dead_process_holds_nothing(folder: Path) -> None:
    assert not ended(folder)
    with held(folder):
        told = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        assert holder(folder) == Holder(told["pid"], told["host"])
        assert not ended(folder)
    assert ended(folder)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (folder / LOCK).write_text(json.dumps(told | {"pid": gone.pid}), encoding="utf-8")
    assert holder(folder) is None
    assert ended(folder)
    (folder / LOCK).write_text(json.dumps(told | {"host": "elsewhere"}), encoding="utf-8")
    assert holder(folder) is None
    assert not ended(folder)  # nobody here can know
    with held(folder):
        pass


def test_a_second_run_into_the_same_folder_is_refused(recipe_file: Path, folder: Path) -> None:
    with held(folder):
        told = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        sentence = f"^{folder}: is being run by process {told['pid']} on .*; wait until it ends"
        with pytest.raises(ServaxError, match=sentence):
            run(load_recipe(recipe_file), folder, command="servax run tiny")
        assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_long_miniature_ends_early(
    plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "LONGEST_SECONDS", 0.0)
    before = torch.get_rng_state()
    pace = rehearse(plan)
    assert set(pace.speeds) == {"target"}
    assert torch.equal(torch.get_rng_state(), before)
    assert not folder.exists()
    seen = survey(plan)
    assert seen.seconds_left(pace) == pytest.approx(sum(map(pace.seconds, seen.rows)) + pace.apart)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.2, "< 1 s"),
        (12.4, "12 s"),
        (59.7, "1 min"),
        (250.0, "4 min 10 s"),
        (12_000.0, "3 h 20 min"),
        (7205.0, "2 h"),
        (100_000.0, "1 d 3 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["run", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_dry_run_shows_what_would_be_done(
    recipe_file: Path, folder: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    text = show(capsys, recipe_file, "-o", folder, "--dry-run")
    stages = text.count("│ fold ")
    assert f"0 of {stages} stages done, 0 % of the expected work" in text
    assert "measured now" in text
    assert text.count("to do") == stages > 20
    assert not folder.exists()
    done(task(plan, "target"), {"best_epoch": 0, "epochs": 1}, seconds=4.0, advanced=2)
    log(task(plan, "extractor"), 1)
    text = show(capsys, recipe_file, "-o", folder, "--dry-run")
    assert "at the pace of the stages that are done" in text
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "cached" in lines["fold 3: target"]
    assert "resumable from epoch 2 of 3" in lines["fold 3: extractor"]
    assert not (folder / LOCK).exists()
    assert not (folder / "folds").exists()


def test_the_status_as_data(
    recipe_file: Path, folder: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    log(task(plan, "extractor"), 1)
    told = json.loads(show(capsys, recipe_file, "-o", folder, "--status", "--json"))
    assert told["run"] == str(folder)
    assert told["seconds_left"] is None  # nothing is done, and a status computes nothing
    stages = {stage["stage"]: stage for stage in told["stages"]}
    assert stages["fold 3: extractor"]["state"] == "running"
    assert stages["fold 3: extractor"]["terms"] == {"uar": 0.5}
    assert stages["fold 1: target"]["state"] == "waiting"
    with held(folder):
        assert "is at work" in show(capsys, recipe_file, "-o", folder, "--status")


def test_either_flag_but_not_both(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe_file), "--dry-run", "--status"]) == 2
    sentence = "servax: status is True, expected one of --dry-run and --status, not both."
    assert capsys.readouterr().err.strip() == sentence
