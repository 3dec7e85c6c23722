"""All stages of a run, as data: what is to be done, in which order, what it needs and may cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import chdir, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from servax.errors import ServaxError, unwritable
from servax.evaluation import records
from servax.evaluation.records import Records
from servax.experiments.fold import FoldTraining, RunData
from servax.experiments.reading import build
from servax.experiments.recipe import Recipe
from servax.experiments.scoring import EXAMPLE, FoldScoring
from servax.features import ZScoreSettings
from servax.files import whole_file
from servax.models.storage import SETTINGS, WEIGHTS
from servax.recognition import MODEL
from servax.stages import Resources, Task, Watcher
from servax.training import LOG_NAME

RECORDS = "records"
LOGS = "logs"
MODELS = "models"


@dataclass(frozen=True)
class FoldPlan:
    """The stages of one fold and seed."""

    training: FoldTraining
    scoring: FoldScoring
    name: str
    """Of its files: `fold-1`, or `fold-1-seed-2` where the recipe has several seeds."""

    @property
    def tasks(self) -> list[Task]:
        """Trainings, then attacks."""
        return [*self.training.tasks, *self.scoring.tasks]


@dataclass(frozen=True)
class Plan:
    """All stages of a run."""

    data: RunData
    folds: tuple[FoldPlan, ...]
    """One for each fold and seed; all folds of the first seed come first."""

    @classmethod
    def of(cls, data: RunData, origin: Mapping[str, Any]) -> Plan:
        """Return the stages of a run.

        Args:
            data: What all folds share.
            origin: Provenance that settings do not decide: code, command, machine.
        """
        folds = []
        for seed in data.recipe.seeds:
            for index in data.held_out:
                training = FoldTraining(data, index, seed)
                name = f"fold-{index + 1}"
                if len(data.recipe.seeds) > 1:
                    name += f"-seed-{seed}"
                folds.append(FoldPlan(training, FoldScoring(training, origin), name))
        return cls(data, tuple(folds))

    @property
    def example(self) -> Task:
        """The stage that draws an utterance of the first fold."""
        return self.folds[0].scoring.example()

    @property
    def tasks(self) -> list[Task]:
        """All stages, in an order in which each finds what it needs."""
        return [*(task for fold in self.folds for task in fold.tasks), self.example]

    @property
    def resources(self) -> Resources:
        """What the stages take of a machine."""
        return self.data.recipe.resources

    @property
    def device(self) -> str:
        """Where they compute."""
        return self.data.recipe.compute.device

    def order(self) -> Order:
        """Return the plan as text, from which another machine makes it again."""
        recipe = json.dumps(asdict(self.data.recipe), default=list)
        origin = json.dumps(dict(self.folds[0].scoring.origin))
        return Order(recipe, origin, str(Path.cwd()))

    def records(self, fold: FoldPlan) -> Records:
        """Return the records of a fold whose stages are done, with the settings of the run."""
        table = fold.scoring.records()
        told = {**table.provenance, **self._settings()}
        scale = fold.training.parts.scale.settings
        if isinstance(scale, ZScoreSettings):
            told["scale_sd_db"] = float(np.mean(scale.sd))
        return Records(table.frame, told)

    def _settings(self) -> dict[str, Any]:
        p, r = self.data, self.data.recipe
        window, z_score = (
            {"window_db": r.window_db},
            {"kind": "z-score", "width_sd": ZScoreSettings.width_sd},
        )
        return {
            "recipe": r.name,
            "settings": json.loads(json.dumps(asdict(r), default=list)),
            "corpus": p.corpus.name,
            "scheme": r.corpus.scheme,
            "classes": list(p.corpus.labels),
            "fold_hash": ", ".join(p.folds[i].hash[:16] for i in p.held_out),
            "seed": r.seeds[0] if len(r.seeds) == 1 else list(r.seeds),
            "scale": window if r.scale == "window" else z_score,
            "attacks": json.loads(json.dumps(r.attacks.told(), default=list)),
        }


@dataclass(frozen=True)
class Order:
    """A run as text, from which any machine that holds the recordings makes its plan."""

    recipe: str
    """The recipe, as JSON."""
    origin: str
    """Provenance that settings do not decide, as JSON: that of the process that began the run."""
    home: str
    """What relative paths in the recipe are relative to."""

    def plan(self, folder: Path) -> Plan:
        """Return the plan, with its stages in `folder`."""
        home = Path(self.home)
        with chdir(home) if home.is_dir() else nullcontext():
            recipe = build(Recipe, json.loads(self.recipe))
            data = RunData.of(recipe, folder, Watcher())
        return Plan.of(data, json.loads(self.origin))


def publish_plan(plan: Plan) -> None:
    """Put records and models of every fold in place, and logs and example of the first.

    Raises:
        ServaxError: A file cannot be read or written.
    """
    run = plan.data.folder
    for fold in plan.folds:
        table = plan.records(fold)
        path = run / RECORDS / f"{fold.name}.parquet"
        records.write(table.frame, path, provenance=table.provenance)
        _publish_models(fold, run)
    first = plan.folds[0]
    for name, task in first.training.networks.items():
        log = task.stage.folder / LOG_NAME
        _publish(log, run / LOGS / f"{first.name}-{name}.jsonl")
    _publish(plan.example.stage.folder / EXAMPLE, run / EXAMPLE)


def _publish_models(fold: FoldPlan, run: Path) -> None:
    for name, task in fold.training.networks.items():
        for part in (SETTINGS, WEIGHTS):
            place = run / MODELS / f"{fold.name}-{name}" / part
            _publish(task.stage.folder / MODEL / part, place)


def _publish(result: Path, place: Path) -> None:
    """Copy a stage's result to its place, in one step."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place) as part:
            shutil.copyfile(result, part)
    except OSError as error:
        raise ServaxError(f"{place}: {unwritable(error)}.") from None
