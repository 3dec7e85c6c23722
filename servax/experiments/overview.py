"""How far a run is and how long the rest may take, read from its folder; nothing is written.

A stage takes time in proportion to its cost (`Task.cost`, in training steps of the recogniser), so
the stages that are done tell the seconds of one unit. Before any is done, a miniature of the run is
timed (`servax.experiments.rehearsal`) or, where that would take long, a few training steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from servax.errors import ServaxError
from servax.experiments.plan import Plan
from servax.recognition import new_recogniser
from servax.stages import Holder, Stage, Task, ended, holder
from servax.training import CHECKPOINT, LOG_NAME, RecogniserTrainer, global_seed, read_log

State = Literal["done", "running", "begun", "waiting"]
FRESH_SECONDS = 120.0
"""A stage whose files changed within this time is taken to be at work."""
MEASURED_STEPS = 3
"""Steps that are timed, after one to warm up."""


@dataclass(frozen=True)
class Row:
    """One stage of a run."""

    stage: str
    """Its name."""
    kind: str
    """`train` or `attack`."""
    needs: tuple[str, ...]
    """Names of the stages whose results it reads."""
    state: State
    """`begun` was left by a run that ended; a training goes on from its last epoch."""
    cost: float
    """Expected cost of the whole stage, in training steps of the recogniser."""
    left: float
    """Expected cost of what is still to do."""
    epoch: int = 0
    """Epochs of a training that need not be done again."""
    epochs: int = 1
    """Epochs of a training, at most."""
    seconds: float | None = None
    """How long the work of a done stage took."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """What a done stage came to."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Validation terms of a training: of the epoch that was kept, else of the last one."""
    steps: int = 1
    """How often its work advances at most."""


class Timing(Protocol):
    """What tells how long stages take."""

    @property
    def apart(self) -> float:
        """Seconds that belong to no stage."""

    def seconds(self, row: Row) -> float | None:
        """Return how long the rest of a stage takes at most, or none where that is not known."""


@dataclass(frozen=True)
class Pace:
    """Seconds for one unit of cost; none where no stage of the kind is done."""

    train: float | None
    """Of trainings."""
    attack: float | None
    """Of attacks."""

    @property
    def apart(self) -> float:
        """What belongs to no stage is not known."""
        return 0.0

    def seconds(self, row: Row) -> float | None:
        """Return how long the rest of a stage takes at most, or none without any pace."""
        each = self.of(row.kind)
        return None if each is None else row.left * each

    def of(self, kind: str) -> float | None:
        """Return the seconds of a kind, or those of the other where only they are known."""
        own, other = self.train, self.attack
        if kind == "attack":
            own, other = other, own
        return other if own is None else own


@dataclass(frozen=True)
class Overview:
    """All stages of a run."""

    rows: tuple[Row, ...]
    """In the order in which one process does them."""
    pace: Pace
    """Learnt from the stages that are done."""
    holder: Holder | None
    """The process of this machine that is at work on the run."""

    @property
    def share(self) -> float:
        """How much of the expected cost is done, in [0, 1]."""
        whole = sum(row.cost for row in self.rows)
        return 1.0 if whole == 0 else 1.0 - sum(row.left for row in self.rows) / whole

    def seconds_left(self, pace: Timing | None = None) -> float | None:
        """Return how long the rest takes in one process at most, or none without any pace."""
        pace = pace or self.pace
        left = [seconds_of(row, pace) for row in self.rows if row.left]
        if None in left:
            return None
        return sum((s for s in left if s is not None), start=pace.apart if left else 0.0)


def seconds_of(row: Row, pace: Timing) -> float | None:
    """Return how long the rest of a stage takes at most, or none without any pace."""
    return 0.0 if row.left == 0 else pace.seconds(row)


def survey(plan: Plan, *, now: float | None = None) -> Overview:
    """Return how far the stages of a run are; no lock is taken and nothing is touched.

    Args:
        plan: The run.
        now: Time in seconds since 1970; default the clock's.
    """
    tasks, who = plan.tasks, holder(plan.prepared.folder)
    at_work = _at_work(tasks, time.time() if now is None else now, who)
    if ended(plan.prepared.folder):
        at_work = set()
    rows = tuple(_row(task, at_work) for task in tasks)
    return Overview(rows, _learnt(tasks), who)


def measure(plan: Plan) -> Pace:
    """Return the time of one training step of the recipe's recogniser on this machine.

    A few steps of its first training are done with weights that are thrown away.

    Raises:
        ServaxError: The training part of the first fold is empty.
    """
    recipe, parts = plan.prepared.recipe, plan.folds[0].training.parts
    network = new_recogniser(recipe.network, parts.train.classes, recipe.width, seed=0)
    trainer = RecogniserTrainer(
        network, parts.train, parts.validation, recipe.recogniser, seed=0, compute=recipe.compute
    )
    moments = [time.perf_counter()]

    def tick() -> None:
        moments.append(time.perf_counter())
        if len(moments) == MEASURED_STEPS + 2:
            raise _EnoughError

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(recipe.resources.train.cpus or threads)
        with global_seed(0, "epoch", 0):
            trainer.train_epoch(0, tick)
    except _EnoughError:
        pass
    finally:
        torch.set_num_threads(threads)
    steps = [later - earlier for earlier, later in pairwise(moments)]
    if not steps:
        raise ServaxError("the first fold has no training utterance; choose other groups.")
    each = statistics.median(steps[1:] or steps)
    return Pace(each, each)


class _EnoughError(Exception):
    """Enough steps were timed."""


def _row(task: Task, at_work: set[Path]) -> Row:
    stage, result = task.stage, task.stage.result()
    needs = tuple(need.name for need in task.needs)
    log = read_log(stage.folder / LOG_NAME)
    state: State = "done"
    epoch, left = 0, 0.0
    if result is None:
        state = "begun" if stage.folder.is_dir() else "waiting"
        state = "running" if stage.folder in at_work else state
        resumable = task.kind == "train" and (stage.folder / CHECKPOINT).exists()
        epoch = min(len(log), task.epochs) if resumable else 0
        left = task.cost * (1.0 - epoch / max(1, task.epochs))
    return Row(
        stage.name,
        task.kind,
        needs,
        state,
        task.cost,
        left,
        epoch if result is None else int(result.get("epochs", 0)),
        task.epochs,
        stage.seconds() if result is not None else None,
        result or {},
        _validation(log, result),
        task.steps,
    )


def _validation(log: list[dict[str, float]], result: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the validation terms of the kept epoch of a done training, else of the last one."""
    kept = -1 if result is None else result.get("best_epoch", -1)
    line = next((line for line in log if line["epoch"] == kept), log[-1] if log else {})
    prefix = "validation/"
    return {n.removeprefix(prefix): v for n, v in line.items() if n.startswith(prefix)}


def _at_work(tasks: list[Task], now: float, who: Holder | None) -> set[Path]:
    """Return the folders of stages that seem to be at work."""
    changes = {
        task.stage.folder: changed
        for task in tasks
        if task.stage.result() is None and (changed := _changed(task.stage)) is not None
    }
    fresh = {folder for folder, at in changes.items() if now - at <= FRESH_SECONDS}
    if not fresh and who is not None and changes:
        # An epoch, or an attack, may take longer; the newest is what the living process does.
        fresh = {max(changes, key=lambda folder: changes[folder])}
    return fresh


def _changed(stage: Stage) -> float | None:
    """Return when a file of a stage was last changed, in seconds since 1970."""
    try:
        return max(path.stat().st_mtime for path in (stage.folder, *stage.folder.iterdir()))
    except OSError:  # not there, or a file went away meanwhile
        return None


def _learnt(tasks: list[Task]) -> Pace:
    spent: dict[str, float] = {"train": 0.0, "attack": 0.0}
    cost: dict[str, float] = {"train": 0.0, "attack": 0.0}
    for task in tasks:
        stage = task.stage
        if stage.result() is None:
            continue
        seconds, advanced = stage.seconds(), stage.advanced()
        if seconds and advanced and task.steps:
            spent[task.kind] += seconds
            cost[task.kind] += task.cost * advanced / task.steps
    paces = {kind: spent[kind] / cost[kind] if cost[kind] else None for kind in spent}
    return Pace(paces["train"], paces["attack"])
