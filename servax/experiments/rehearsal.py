"""Times a miniature of a run, so that nobody has to guess how long the run takes.

Costs in training steps (`Task.cost`) are ratios that were found on one machine. Here each kind of
stage of the first fold is done in full on this machine, in a folder that is thrown away: with the
recipe's networks and batches, but few utterances, two epochs and a few steps of each attack. What a
stage takes is told apart into beginning, one step, one scored step and the end of an epoch, and put
together again in the numbers of the recipe.
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
from typing import TYPE_CHECKING

import numpy as np

from servax.corpora import Corpus, Fold
from servax.evaluation.suites import AttackGrid
from servax.experiments.plan import Plan
from servax.experiments.prepared import Prepared
from servax.experiments.publishing import publish_plan
from servax.experiments.recipe import Recipe
from servax.experiments.run import report_run
from servax.purifier import PurifierTraining, SurrogateTraining
from servax.stages import Storage, Task, Watcher, perform_here

if TYPE_CHECKING:
    from servax.experiments.overview import Row

EPOCHS = 2
"""Of each training: what only the first one does stays apart from what each one does."""
STEPS = 3
"""In an epoch of the miniature, and in a trajectory of PGD, of which the last one is scored."""
BATCHES = 2
"""Of tested utterances: the first one pays for what is done once."""


@dataclass(frozen=True)
class StagePace:
    """Seconds of the parts of one kind of stage."""

    begin: float
    """Before its first step, whatever its size: networks are read, memory is taken."""
    step: float
    """One step: a batch of a training, a gradient of an attack with its scoring."""
    epoch: float = 0.0
    """The end of an epoch: validation, checkpoint."""

    def seconds(self, steps: int, epochs: int) -> float:
        """Return how long a stage of this kind takes."""
        return self.begin + steps * self.step + epochs * self.epoch


@dataclass(frozen=True)
class Rehearsal:
    """What the miniature of a run taught."""

    paces: Mapping[str, StagePace]
    """By kind of stage (`kind_of`)."""
    report: float
    """Seconds of the report and of all that is published."""
    begin: float = 0.0
    """Seconds before the first stage: the corpus is read and checked for leaks."""
    train_step: float = field(default=0.0)
    """Seconds of one training step of the target."""

    @property
    def apart(self) -> float:
        """Seconds that belong to no stage."""
        return self.begin + self.report

    def seconds(self, row: Row) -> float:
        """Return how long the rest of a stage takes at most."""
        pace = self.paces[kind_of(row.stage)]
        share = row.left / row.cost if row.cost else 1.0
        return share * pace.seconds(row.steps, row.epochs)


def kind_of(stage: str) -> str:
    """Return what a stage does, whatever its fold, seed and strength: `adaptive-pgd-quantise`."""
    return re.sub(r"-\d[\d.]*$", "", stage.rpartition(": ")[2])


def rehearse(
    plan: Plan, *, begin: float = 0.0, tick: Callable[[int, int], None] | None = None
) -> Rehearsal:
    """Return the seconds of each kind of stage of a plan, measured now.

    Args:
        plan: The run; nothing is written into its folder.
        begin: Seconds that loading it took.
        tick: Called with (done, total) stages.

    Raises:
        ServaxError: The recipe's first fold cannot be trained, or there is no room on the disk.
    """
    with tempfile.TemporaryDirectory(prefix="servax-") as folder:
        small = Plan.of(miniature(plan.prepared, Path(folder)), {})
        tasks = small.tasks
        paces: dict[str, StagePace] = {}
        for number, task in enumerate(tasks, start=1):
            watch = _Stopwatch()
            perform_here(task, small.prepared.recipe.resources, watch, Storage.of(folder))
            paces.setdefault(kind_of(task.stage.name), _pace(task, watch, plan, small))
            if tick is not None:
                tick(number, len(tasks))
        began = time.perf_counter()
        publish_plan(small)
        report_run(Path(folder), [fold.name for fold in small.folds])
        report = time.perf_counter() - began
    return Rehearsal(paces, report, begin, paces["target"].step)


def miniature(prepared: Prepared, folder: Path) -> Prepared:
    """Return the same for a run of one fold, with few utterances and steps of every kind."""
    fold, recipe = prepared.folds[prepared.held_out[0]], prepared.recipe
    sizes = [each.training.batch_size for each in recipe.chosen.values()]
    most = max(recipe.recogniser.batch_size, recipe.adversarial.training.batch_size, *sizes)
    small = Fold(
        0,
        _few(fold.train, STEPS * most),
        fold.validation,
        _few(fold.test, BATCHES * recipe.batch_size),
        fold.apart,
    )
    return replace(prepared, recipe=_shortened(recipe), folder=folder, folds=[small])


def _few(corpus: Corpus, count: int) -> Corpus:
    """Return `count` utterances, of every label as many as of another as far as they last."""
    labels = corpus.label_index
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange(int((labels == label).sum()))
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[np.argsort(turn, kind="stable")[:count]] = True
    return corpus.subset(chosen)


def _shortened(recipe: Recipe) -> Recipe:
    adversarial = recipe.adversarial
    plain = STEPS * EPOCHS if adversarial.training.plain_iterations else 0
    trainings: dict[str, PurifierTraining | SurrogateTraining | None] = {
        name: replace(recipe.chosen[name].training, epochs=EPOCHS, patience=EPOCHS)
        for name in recipe.purifiers
    }
    variants = {
        name: replace(each, training=replace(each.training, epochs=EPOCHS, patience=EPOCHS))
        for name, each in recipe.variants.items()
    }
    return replace(
        recipe,
        held_out=None,
        seeds=recipe.seeds[:1],
        recogniser=replace(recipe.recogniser, epochs=EPOCHS, patience=EPOCHS),
        purifiers=trainings,
        variants=variants,
        adversarial=replace(
            adversarial,
            epsilons=adversarial.epsilons[:1],
            training=replace(
                adversarial.training,
                plain_iterations=plain,
                iterations=plain + STEPS * EPOCHS,
            ),
        ),
        attacks=replace(recipe.attacks, steps=STEPS, adaptive_steps=STEPS),
    )


class _Stopwatch(Watcher):
    """Keeps the moments at which a stage began, advanced and ended."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def start(self, stage: str, steps: int) -> None:
        """Take the time."""
        self.moments.append(time.perf_counter())

    def advance(self, note: str = "") -> None:
        """Take the time."""
        self.moments.append(time.perf_counter())

    def finish(self, stage: str, *, cached: bool) -> None:
        """Take the time."""
        self.moments.append(time.perf_counter())

    @property
    def first(self) -> float:
        """Seconds up to the first step done."""
        return self.moments[1] - self.moments[0]

    @property
    def between(self) -> list[float]:
        """Seconds from each step to the next one: one less than there were steps."""
        return [later - earlier for earlier, later in pairwise(self.moments[1:-1])]

    @property
    def last(self) -> float:
        """Seconds from the last step to the end."""
        return self.moments[-1] - self.moments[-2]


def _pace(task: Task, watch: _Stopwatch, plan: Plan, small: Plan) -> StagePace:
    """Return the pace of a stage of the miniature in the numbers of the recipe."""
    if task.kind == "train":
        return _training_pace(task, watch)
    kind, grid = kind_of(task.stage.name), plan.prepared.recipe.attacks
    if not watch.between:
        return StagePace(begin=0.0, step=watch.first + watch.last)
    step = statistics.median(watch.between)
    if kind.startswith("adaptive-pgd"):
        step = _partly_scored(watch.between, grid)
    elif not kind.startswith("adaptive"):
        step += _other_defences(step, kind, plan, small)
    return StagePace(max(0.0, watch.first - step) + watch.last, step)


def _training_pace(task: Task, watch: _Stopwatch) -> StagePace:
    if not task.steps:  # an adversarial training without a plain part
        return StagePace(begin=watch.moments[-1] - watch.moments[0], step=0.0)
    inside = max(1, task.steps // task.epochs)
    # Between the last step of an epoch and the first of the next one, it is validated.
    ends = [s for i, s in enumerate(watch.between, start=1) if i % inside == 0]
    steps = [s for i, s in enumerate(watch.between, start=1) if i % inside]
    step = statistics.median(steps) if steps else watch.first
    once = max(0.0, max(ends, default=0.0) - step - watch.last)
    return StagePace(max(0.0, watch.first - step) + once, step, watch.last)


def _partly_scored(between: Sequence[float], grid: AttackGrid) -> float:
    """Return the seconds of a step of the adaptive PGD, which is scored now and then."""
    # Interval i ends with step i + 1; of the miniature's trajectory only the last one is scored.
    scored = [s for i, s in enumerate(between, start=2) if i % STEPS == 0]
    plain = [s for i, s in enumerate(between, start=2) if i % STEPS]
    share = len(grid.adaptive_ks) / grid.adaptive_steps
    return (1 - share) * statistics.median(plain) + share * statistics.median(scored)


def _other_defences(step: float, kind: str, plan: Plan, small: Plan) -> float:
    """Return the seconds in which a step scores the defences that the miniature left out."""
    shown, every = (len(p.prepared.recipe.defences) for p in (small, plan))
    if every == shown:
        return 0.0
    grid = plan.prepared.recipe.attacks
    points = len(grid.epsilons) if kind == "fgsm" else 1
    # A defence is scored in about a third of the time of a gradient, which clean input has not.
    gradient = 0.0 if kind == "clean" else 3.0
    return step * points * (every - shown) / (points * (1 + shown) + gradient)
