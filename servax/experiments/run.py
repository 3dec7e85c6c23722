"""A recipe is run: seeds x folds x trainings x defences x attacks as stages, then the report."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from servax.evaluation import records
from servax.evaluation.records import Records
from servax.experiments.encoder_fold import EncoderFold, Fronts
from servax.experiments.fold import RunData
from servax.experiments.logmel_fold import EXAMPLE, FoldPlan
from servax.experiments.provenance import provenance
from servax.experiments.recipe import AnyRecipe, EncoderRecipe, recipe_of
from servax.files import remove_unfinished, write_whole
from servax.recognition import MODEL, Recogniser
from servax.report import Examples, ReportPaths, read_run, write_report
from servax.stages import Engine, Storage, Task, Watcher, held
from servax.training import LOG_NAME

RECORDS, LOGS, MODELS, REPORT = "records", "logs", "models", "report"


@dataclass(frozen=True)
class Plan:
    """All stages of a run."""

    data: RunData[Any]
    folds: tuple[FoldPlan | EncoderFold, ...]
    """One for each fold and seed; all folds of the first seed come first."""

    @classmethod
    def of(cls, data: RunData[Any], origin: Mapping[str, Any]) -> Plan:
        """Return the stages of a run.

        Args:
            data: What all folds share.
            origin: Provenance that settings do not decide: code, command, machine.

        Raises:
            ServaxError: A recipe on sound names a defence that does not fit.
        """
        made: Callable[..., FoldPlan | EncoderFold] = FoldPlan
        if isinstance(data.recipe, EncoderRecipe):
            made = partial(EncoderFold, fronts=Fronts.of(data))
        chosen = itertools.product(data.recipe.seeds, data.held_out)
        folds = (made(data, index=i, seed=seed, origin=origin) for seed, i in chosen)
        return cls(data, tuple(folds))

    @property
    def example(self) -> Task | None:
        """The stage that draws an utterance of the first fold; none where there is no log-Mel."""
        return self.folds[0].example()

    @property
    def tasks(self) -> list[Task]:
        """All stages, in an order in which each finds what it needs."""
        example = [self.example] if self.example else []
        return [*(task for fold in self.folds for task in fold.tasks), *example]

    def order(self) -> Order:
        """Return the plan as text, from which another machine makes it again."""
        recipe = json.dumps(asdict(self.data.recipe), default=list)
        origin = json.dumps(dict(self.folds[0].origin))
        return Order(recipe, origin, str(Path.cwd()))

    def records(self, fold: FoldPlan | EncoderFold) -> Records:
        """Return the records of a fold whose stages are done, with the settings of the run."""
        table, p, r = fold.tables(), self.data, self.data.recipe
        told = {
            "recipe": r.name,
            "settings": json.loads(json.dumps(asdict(r), default=list)),
            "corpus": p.corpus.name,
            "scheme": r.corpus.scheme,
            "classes": list(p.corpus.labels),
            "fold_hash": ", ".join(p.folds[i].hash[:16] for i in p.held_out),
            "seed": r.seeds[0] if len(r.seeds) == 1 else list(r.seeds),
        }
        return Records(table.frame, {**table.provenance, **told, **fold.told()})


@dataclass(frozen=True)
class Order:
    """A run as text, from which any machine that holds the recordings makes its plan."""

    recipe: str
    """The recipe, as JSON."""
    origin: str
    """Provenance that settings do not decide, as JSON: that of the process that began the run."""
    home: str
    """What relative paths in the recipe are relative to."""

    def tasks(self, folder: Path) -> list[Task]:
        """Return all stages, with their results in `folder`."""
        home = Path(self.home)
        with chdir(home) if home.is_dir() else nullcontext():
            recipe = recipe_of(json.loads(self.recipe))
            data = RunData.of(recipe, folder, Watcher())
        return Plan.of(data, json.loads(self.origin)).tasks


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    records: records.Records
    """Every prediction, with provenance."""
    report: ReportPaths
    """The report computed from them."""


def run(
    recipe: AnyRecipe,
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
        engine: Performs the stages; default this process, one after another.

    Raises:
        ServaxError: The corpus is not there, a file cannot be read or written, training diverged,
            or another process runs a recipe into `folder`.
    """
    watcher = watcher or Watcher()
    origin = provenance(command)  # the code that runs is the code found at the start
    storage = Storage(folder)
    storage.check()
    plan = Plan.of(RunData.of(recipe, storage.folder, watcher), origin)
    with held(storage.folder):
        remove_unfinished(storage.folder, alone=True)
        plan.data.save_folds()
        watcher.plan([(task.stage.name, task.cost) for task in plan.tasks])
        if engine is None:
            for task in plan.tasks:
                storage.perform(task, watcher, threads=recipe.resources.of(task).cpus)
        else:
            engine.perform(
                plan.tasks,
                storage,
                watcher,
                order=plan.order(),
                resources=recipe.resources,
                device=recipe.compute.device,
            )
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
    return not re.search(
        r"-((adversarial-(vanilla|similarity)|smoothed)-[0-9.]+|pgd-at|trades)$", log.stem
    )


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
    for name, task in first.networks.items():
        log = task.stage.folder / LOG_NAME
        if log.is_file():  # a head is fitted in one go
            write_whole(run / LOGS / f"{first.name}-{name}.jsonl", log.read_bytes())
    if plan.example is not None:
        write_whole(run / EXAMPLE, (plan.example.stage.folder / EXAMPLE).read_bytes())


def _publish_models(fold: FoldPlan | EncoderFold, run: Path) -> None:
    for name, task in fold.networks.items():
        trained = task.stage.folder / MODEL
        for part in Recogniser.fetched:
            if (trained / part).is_file():  # most have no encoder of their own
                place = run / MODELS / f"{fold.name}-{name}" / part
                write_whole(place, (trained / part).read_bytes())
