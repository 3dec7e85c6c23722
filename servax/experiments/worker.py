"""What a machine of a cluster does: make the run's plan again from a few texts, perform one stage.

The work of a stage is a closure over datasets, which do not travel. Each worker process makes the
plan itself, once, from the recipe and the recordings on its own machine; the hash of the stage,
which names the recordings too, tells whether it is the same plan. What travels is text alone.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import chdir, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from servax.corpora.folders import cache_folder
from servax.errors import ServaxError, unwritable
from servax.experiments.building import build
from servax.experiments.choices import Resources, Share
from servax.experiments.engines import perform_here
from servax.experiments.plan import Plan
from servax.experiments.prepared import Prepared
from servax.experiments.recipe import Recipe
from servax.experiments.remote import is_url
from servax.experiments.stages import Silence, Stage
from servax.experiments.storage import Storage

PATIENCE_SECONDS = 60.0
"""How long a result may take to be seen on another machine; NFS shows new files late."""


@dataclass(frozen=True)
class Order:
    """A run, as text that any machine can make its plan from."""

    place: str
    """Its folder, absolute, or its URL."""
    recipe: str
    """The recipe, as JSON."""
    origin: str
    """Provenance that settings do not decide, as JSON: that of the process that began the run."""
    home: str
    """What relative paths in the recipe are relative to."""

    @classmethod
    def of(cls, plan: Plan, storage: Storage) -> Order:
        """Return the order for a plan."""
        place = storage.place if is_url(storage.place) else str(storage.folder.resolve())
        recipe = json.dumps(asdict(plan.prepared.recipe), default=list)
        origin = json.dumps(dict(plan.folds[0].scoring.origin))
        return cls(place, recipe, origin, str(Path.cwd()))


@dataclass(frozen=True)
class Refusal:
    """A sentence that a stage ended with; an error itself may not survive the way back."""

    sentence: str
    exit_code: int


def perform_order(order: Order, name: str, key: str) -> Refusal | None:
    """Perform one stage of a run; return the sentence it was refused with, if it was.

    Args:
        order: The run.
        name: Of the stage, for people.
        key: Hash of its settings, as the process that began the run has it.
    """
    try:
        plan, storage = _made(order)
        tasks = {task.stage.name: task for task in plan.tasks}
        if name not in tasks or tasks[name].stage.key != key:
            raise ServaxError(
                f"{name}: this stage is another one on {socket.gethostname()}, expected the same "
                "servax and the same recordings on every machine."
            )
        task = tasks[name]
        storage.fetch(task.stage)
        if task.stage.result() is None:
            for need in task.needs:
                seen(need, storage)
        perform_here(task, on_cluster(plan.prepared.recipe.resources), Silence(), storage)
    except ServaxError as error:
        return Refusal(str(error), error.exit_code)
    return None


def on_cluster(resources: Resources) -> Resources:
    """Return what stages take of a cluster: one CPU where the recipe does not say."""

    def share(given: Share) -> Share:
        return replace(given, cpus=given.cpus or 1)

    return replace(resources, train=share(resources.train), attack=share(resources.attack))


def seen(stage: Stage, storage: Storage) -> None:
    """Wait until a stage that another machine has done is seen on this one.

    Raises:
        ServaxError: It is not seen in time.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        storage.fetch(stage)
        if stage.result() is not None:
            return
        if time.monotonic() > until:
            raise ServaxError(
                f"{stage.name}: was done by another machine, but its result is not seen on "
                f"{socket.gethostname()} in {stage.folder}; give a folder that all machines share, "
                "or a URL such as s3://…, as --out."
            )
        time.sleep(0.5)


@lru_cache(maxsize=1)
def _made(order: Order) -> tuple[Plan, Storage]:
    """Return the plan and the storage of a run; made once in each process."""
    storage = Storage.of(order.place)
    if storage.remote is None and not storage.folder.is_dir():
        raise ServaxError(
            f"{order.place}: is not there on {socket.gethostname()}; give a folder that all "
            "machines share, or a URL such as s3://…, as --out."
        )
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Processes that begin together on one machine: one extracts the features for all.
        with FileLock(cache / "prepare.lock"):
            home = Path(order.home)
            with chdir(home) if home.is_dir() else nullcontext():
                recipe = build(Recipe, json.loads(order.recipe))
                prepared = Prepared.of(recipe, storage.folder, Silence())
    except OSError as error:
        raise ServaxError(f"{cache}: {unwritable(error)}.") from None
    return Plan.of(prepared, json.loads(order.origin)), storage
