"""How far a run is and how long the rest may take, read from its folder; nothing is written.

A stage takes time in proportion to its cost (`Task.cost`, in training steps of the recogniser), so
the stages that are done tell the seconds of one unit. Before any is done, a miniature of the run is
timed: each kind of stage of the first fold is done on this machine, in a folder that is thrown
away, with the recipe's networks and batches, but few utterances, two epochs and a few steps of each
attack. Where that takes long, only the first of them are.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from servax.corpora import Fold
from servax.evaluation.dataset import some
from servax.experiments.fold import RunData
from servax.experiments.run import Plan, publish_plan, report_run
from servax.stages import Holder, Stage, Task, Watcher, ended, holder
from servax.training import CHECKPOINT, LOG_NAME, read_log

State = Literal["done", "running", "begun", "waiting"]
FRESH_SECONDS = 120.0
"""A stage whose files changed within this time is taken to be at work."""
LONGEST_SECONDS = 120.0
"""After this time no other stage of the miniature is begun."""
EPOCHS = 2
"""Of each training of the miniature."""
STEPS = 3
"""In an epoch of the miniature, and in a trajectory of PGD, of which the last one is scored."""
BATCHES = 2
"""Of tested utterances: the first one pays for what is done once."""


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


@dataclass(frozen=True)
class Speed:
    """How long stages of one kind take."""

    unit: float
    """Seconds for one unit of cost."""
    begin: float = 0.0
    """Seconds before the first step: networks are read, memory is taken."""
    epoch: float = 0.0
    """Seconds of the end of an epoch: validation, checkpoint."""


@dataclass(frozen=True)
class Pace:
    """How long stages take, by what they do."""

    speeds: Mapping[str, Speed]
    """By kind of stage (`kind_of`), or by `train` and `attack`; none where nothing is known."""
    apart: float = 0.0
    """Seconds that belong to no stage: loading, the report."""

    def of(self, row: Row) -> Speed | None:
        """Return the speed of a stage, or that of any where only another is known."""
        named = (self.speeds.get(name) for name in (kind_of(row.stage), row.kind))
        return next((each for each in (*named, *self.speeds.values()) if each), None)

    def seconds(self, row: Row) -> float | None:
        """Return how long the rest of a stage takes at most, or none without any speed."""
        speed = self.of(row)
        if row.left == 0 or speed is None:
            return 0.0 if row.left == 0 else None
        share = row.left / row.cost
        return row.left * speed.unit + share * (speed.begin + row.epochs * speed.epoch)


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

    def seconds_left(self, pace: Pace | None = None) -> float | None:
        """Return how long the rest takes in one process at most, or none without any pace."""
        pace = pace or self.pace
        left = [pace.seconds(row) for row in self.rows if row.left]
        if None in left:
            return None
        return sum((s for s in left if s is not None), start=pace.apart if left else 0.0)


def kind_of(stage: str) -> str:
    """Return what a stage does, whatever its fold, seed and strength: `adaptive-pgd-quantise`."""
    return re.sub(r"-\d[\d.]*$", "", stage.rpartition(": ")[2])


def survey(plan: Plan, *, now: float | None = None) -> Overview:
    """Return how far the stages of a run are; no lock is taken and nothing is touched.

    Args:
        plan: The run.
        now: Time in seconds since 1970; default the clock's.
    """
    tasks, who = plan.tasks, holder(plan.data.folder)
    over = ended(plan.data.folder)
    at_work = set() if over else _at_work(tasks, time.time() if now is None else now, who)
    rows = tuple(_row(task, at_work) for task in tasks)
    return Overview(rows, _learnt(tasks), who)


def rehearse(plan: Plan, *, tick: Callable[[int, int], None] | None = None) -> Pace:
    """Return the pace of each kind of stage of a plan, from a miniature that is done now.

    Args:
        plan: The run; nothing is written into its folder.
        tick: Called with (done, total) stages.

    Raises:
        ServaxError: The recipe's first fold cannot be trained, or there is no room on the disk.
    """
    began, recipe = time.perf_counter(), plan.data.recipe
    with tempfile.TemporaryDirectory(prefix="servax-") as folder:
        small = miniature(RunData.of(recipe, plan.data.folder, Watcher()), Path(folder))
        loading, tasks = time.perf_counter() - began, small.tasks
        speeds: dict[str, Speed] = {}
        for number, task in enumerate(tasks, start=1):
            watch = _Stopwatch()
            task.perform(watch, threads=recipe.resources.of(task).cpus)
            speeds.setdefault(kind_of(task.stage.name), _speed(task, watch.moments))
            if tick is not None:
                tick(number, len(tasks))
            if time.perf_counter() - began > LONGEST_SECONDS:
                return Pace(speeds, loading)
        ended = time.perf_counter()
        publish_plan(small)
        report_run(Path(folder), [fold.name for fold in small.folds])
        return Pace(speeds, loading + time.perf_counter() - ended)


def miniature(data: RunData[Any], folder: Path) -> Plan:
    """Return a run of one fold into `folder` with few utterances and steps of every kind."""
    fold, recipe = data.folds[data.held_out[0]], data.recipe
    train = some(fold.train, STEPS * recipe.largest_batch, seed=0)
    validation, test = fold.validation, some(fold.test, BATCHES * recipe.batch_size, seed=0)
    small = Fold(0, train, validation, test, fold.apart)
    spoken = {name for part in (train, validation, test) for name in part.utterances["utterance"]}
    corpus = data.corpus.subset(data.corpus.utterances["utterance"].isin(spoken).to_numpy())
    short = recipe.shortened(steps=STEPS, epochs=EPOCHS)
    return Plan.of(replace(data, recipe=short, folder=folder, corpus=corpus, folds=[small]), {})


class _Stopwatch(Watcher):
    """Keeps the moments at which a stage began, advanced and ended."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def _note(self, *_: object, **__: object) -> None:
        self.moments.append(time.perf_counter())

    start = advance = finish = _note


def _speed(task: Task, moments: Sequence[float]) -> Speed:
    """Return the speed of a stage of the miniature: its beginning, its steps and its epochs apart.

    The first step pays for what is done once; between the last step of an epoch and the first of
    the next one, it is validated. A stage without a step is an adversarial training without a plain
    part, or a head of which all that it hears is in the cache.
    """
    if len(moments) <= 2:
        return Speed(unit=0.0, begin=moments[-1] - moments[0])
    first, *between, last = (later - earlier for earlier, later in pairwise(moments))
    inside = max(1, task.steps // task.epochs)
    train = task.kind == "train"
    steps = [s for i, s in enumerate(between, start=1) if not (train and i % inside == 0)]
    step = statistics.fmean(steps or [first])
    begin = max(0.0, first - step) + (0.0 if train else last)
    return Speed(step * task.steps / task.cost, begin, last if train else 0.0)


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
        seconds, advanced = stage.seconds(), stage.done().get("advanced")
        if seconds and advanced and task.steps:
            spent[task.kind] += seconds
            cost[task.kind] += task.cost * advanced / task.steps
    return Pace({k: Speed(spent[k] / cost[k]) for k in spent if cost[k]})
