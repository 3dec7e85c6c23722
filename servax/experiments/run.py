"""Runs a recipe: folds x (target, extractor, purifiers), attacks, records, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servax.errors import ServaxError
from servax.evaluation import records
from servax.experiments.fold import EXAMPLE, LOGS, RECORDS, FoldRun
from servax.experiments.prepared import Prepared
from servax.experiments.provenance import provenance
from servax.experiments.recipe import Recipe
from servax.experiments.stages import Silence, Watcher
from servax.report import Examples, ReportPaths, write_report

REPORT = "report"


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    records: records.Records
    """Every prediction, with provenance."""
    report: ReportPaths
    """The report computed from them."""


def run(recipe: Recipe, folder: Path, *, command: str, watcher: Watcher | None = None) -> Finished:
    """Do what a recipe says and leave records and report in `folder`.

    Stages that are done already are not done again; a killed run goes on from its last epoch.

    Args:
        recipe: What to do.
        folder: The run; made when missing.
        command: The command line, for the report's header.
        watcher: Is told how far the run is.

    Raises:
        ServaxError: The corpus is not there, a file cannot be read or written, training diverged.
    """
    watcher = watcher or Silence()
    origin = provenance(command)  # the code that runs is the code found at the start
    prepared = Prepared.of(recipe, folder, watcher)
    watcher.plan([stage for fold in recipe.folds for stage in prepared.costs(fold)])
    for fold in recipe.folds:
        FoldRun(prepared, fold, watcher).perform(origin)
    return report_run(folder, recipe.folds)


def report_run(
    folder: Path, folds: Sequence[int] | None = None, *, out: Path | None = None
) -> Finished:
    """Write the report of a finished run from its records, example and logs.

    Args:
        folder: The run, or one Parquet file of records.
        folds: Which folds, from 0; default all whose records are there.
        out: Folder of the report; default ``report`` beside the records.

    Raises:
        ServaxError: There are no records, or they do not belong together.
    """
    home = folder.parent if folder.is_file() else folder
    if folder.is_file():
        paths = [folder]
    elif folds is not None:
        paths = [home / RECORDS / f"fold-{fold + 1}.parquet" for fold in folds]
    else:
        paths = sorted((home / RECORDS).glob("fold-*.parquet"))
    if not paths:
        raise ServaxError(
            f"{folder}: holds no {RECORDS}/fold-*.parquet; expected the folder of a finished run."
        )
    everything = records.concat([records.read(path) for path in paths])
    example = home / EXAMPLE
    report = write_report(
        everything,
        out or home / REPORT,
        examples=Examples.load(example) if example.is_file() else None,
        logs={path.stem: path for path in sorted((home / LOGS).glob("*.jsonl"))},
    )
    return Finished(everything, report)
