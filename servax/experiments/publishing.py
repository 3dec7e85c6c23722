"""Puts the results of a run's stages where people look for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from servax.errors import ServaxError, unwritable
from servax.evaluation import records
from servax.experiments.plan import FoldPlan, Plan
from servax.experiments.scoring import EXAMPLE
from servax.files import whole_file
from servax.models.storage import SETTINGS, WEIGHTS
from servax.recognition import MODEL
from servax.training import LOG_NAME

RECORDS = "records"
LOGS = "logs"
MODELS = "models"

__all__ = ["EXAMPLE", "LOGS", "MODELS", "RECORDS", "publish_plan"]


def publish_plan(plan: Plan) -> None:
    """Put records and models of every fold in place, and logs and example of the first.

    Raises:
        ServaxError: A file cannot be read or written.
    """
    run = plan.prepared.folder
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
