"""Runs a recipe: seeds x folds x trainings x defences x attacks, then the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servax.evaluation import records
from servax.experiments.fold import RunData
from servax.experiments.plan import LOGS, RECORDS, Plan, publish_plan
from servax.experiments.provenance import provenance
from servax.experiments.recipe import Recipe
from servax.experiments.scoring import EXAMPLE
from servax.files import remove_unfinished
from servax.report import Examples, ReportPaths, read_run, write_report
from servax.stages import Engine, LocalEngine, Storage, Watcher, held

REPORT = "report"


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    records: records.Records
    """Every prediction, with provenance."""
    report: ReportPaths
    """The report computed from them."""


def run(
    recipe: Recipe,
    folder: str | Path,
    *,
    command: str,
    watcher: Watcher | None = None,
    engine: Engine | None = None,
) -> Finished:
    """Do what a recipe says and leave records and report in `folder`.

    Stages that are done already are not done again; a killed run goes on from its last epoch.

    Args:
        recipe: What to do.
        folder: The run, or an fsspec URL to keep it behind; made when missing.
        command: The command line, for the report's header.
        watcher: Is told how far the run is.
        engine: Performs the stages; default this process.

    Raises:
        ServaxError: The corpus is not there, a file cannot be read or written, training diverged,
            or another process runs a recipe into `folder`.
    """
    watcher = watcher or Watcher()
    origin = provenance(command)  # the code that runs is the code found at the start
    storage = Storage.of(folder)
    storage.check()
    plan = Plan.of(RunData.of(recipe, storage.folder, watcher), origin)
    with held(storage.folder):
        remove_unfinished(storage.folder, alone=True)
        plan.data.save_folds()
        watcher.plan([(task.stage.name, task.cost) for task in plan.tasks])
        (engine or LocalEngine()).perform(plan, storage, watcher)
        publish_plan(plan)
        finished = report_run(storage.folder, [fold.name for fold in plan.folds])
        storage.publish()
        return finished


def report_run(
    folder: Path, names: Sequence[str] | None = None, *, out: Path | None = None
) -> Finished:
    """Write the report of a finished run from its records, example and logs.

    Args:
        folder: The run, or one Parquet file of records.
        names: Which tables (`fold-1`, …); default all that are there.
        out: Folder of the report; default ``report`` beside the records.

    Raises:
        ServaxError: There are no records, or they do not belong together.
    """
    home = folder.parent if folder.is_file() else folder
    if names is None:
        everything = read_run(folder)
    else:
        paths = [home / RECORDS / f"{name}.parquet" for name in names]
        everything = records.concat([records.read(path) for path in paths])
    example = home / EXAMPLE
    report = write_report(
        everything,
        out or home / REPORT,
        examples=Examples.load(example) if example.is_file() else None,
        logs={path.stem: path for path in sorted((home / LOGS).glob("*.jsonl")) if _drawn(path)},
    )
    return Finished(everything, report)


def _drawn(log: Path) -> bool:
    """Say whether a training has a picture: a dozen of the baselines' would bury the report."""
    return not re.search(r"-(adversarial-(vanilla|similarity)-[0-9.]+|pgd-at|trades)$", log.stem)
