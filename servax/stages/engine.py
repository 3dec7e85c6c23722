"""Performs the stages of a run in other processes, each as soon as all that it needs is done.

The work of a stage is a closure over datasets, which do not travel. Each worker process makes the
stages itself, once, from an order, which is text, and the recordings on its own machine; the hash
of a stage, which names the recordings too, tells whether it is the same. Results lie in the run's
folder, as those of one process do.
"""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock

from servax.corpora import cache_folder
from servax.errors import ServaxError, unwritable
from servax.stages.stage import Resources, Stage, Task, Watcher
from servax.stages.storage import Storage

PATIENCE_SECONDS = 60.0
"""How long a result may take to be seen on another machine; NFS shows new files late."""


class Order(Hashable, Protocol):
    """The stages of a run as text, which travels; a process makes those of one only once."""

    def tasks(self, folder: Path) -> Sequence[Task]:
        """Return the stages, with their results in `folder`."""


class Errand(NamedTuple):
    """One stage of an order, as it is sent to a worker."""

    order: Order
    """All stages."""
    place: str
    """Where the run lies: its folder, absolute, or its URL."""
    name: str
    """Of the stage, for people."""
    key: str
    """Hash of its settings, as the process that began the run has it."""
    threads: int
    """That its work may use."""


class Refusal(NamedTuple):
    """A sentence that a stage ended with; an error itself may not survive the way back."""

    sentence: str
    exit_code: int


class Crew(Protocol):
    """Workers, who are given errands."""

    room: float
    """How many errands they have at most at one time."""

    def begin(self, errand: Errand, task: Task) -> Any:
        """Give a task to a worker, as an errand; return what stands for it."""

    def finished(self, begun: Sequence[Any]) -> Iterable[Any]:
        """Wait for some of those begun, and return which are over, perhaps none yet."""

    def outcome(self, begun: Any, name: str) -> Refusal | None:
        """Return why the stage of an errand that is over was refused, or none.

        Raises:
            ServaxError: It failed, or its worker was lost.
        """


class Engine(ABC):
    """Performs the stages of a run in other processes."""

    def perform(
        self,
        tasks: Sequence[Task],
        storage: Storage,
        watcher: Watcher,
        *,
        order: Order,
        resources: Resources,
        device: str,
    ) -> None:
        """Complete every stage that is not done yet, and bring all results here.

        Args:
            tasks: All stages of a run, in an order in which each finds what it needs.
            storage: Where the run lies.
            watcher: Is told which stages are done.
            order: What makes these stages in another process.
            resources: What they take of a machine.
            device: Where they compute: `cpu`, `cuda`, ….

        Raises:
            ServaxError: A stage was refused, its worker was lost, or nothing is large enough for
                it.
        """
        if storage.of_this_process:
            raise ServaxError(
                f"{storage.shown}: is seen by one process alone, expected a folder or a URL that "
                "all machines share."
            )
        waiting = []
        for task in tasks:
            storage.fetch(task.stage)
            if task.stage.result() is None:
                waiting.append(task)
            else:
                storage.push(task.stage)
                watcher.finish(task.stage.name, cached=True)
        if waiting:
            with self.crew(waiting, watcher, resources, device) as crew:
                _conduct(crew, waiting, storage, watcher, order, resources)

    @abstractmethod
    def crew(
        self, tasks: Sequence[Task], watcher: Watcher, resources: Resources, device: str
    ) -> AbstractContextManager[Crew]:
        """Keep workers for some tasks; at the end of the block they end, whatever they are at.

        Raises:
            ServaxError: There is no room for one of the tasks.
        """


def _conduct(
    crew: Crew,
    waiting: list[Task],
    storage: Storage,
    watcher: Watcher,
    order: Order,
    resources: Resources,
) -> None:
    """Perform all tasks; the first that is refused ends them all."""
    place = storage.place if storage.remote else str(storage.folder.resolve())
    running: dict[Any, Task] = {}
    while waiting or running:
        undone = {task.stage.key for task in [*waiting, *running.values()]}
        for task in [t for t in waiting if not undone & {need.key for need in t.needs}]:
            if len(running) < crew.room:
                waiting.remove(task)
                stage, threads = task.stage, resources.of(task).cpus or 1
                errand = Errand(order, place, stage.name, stage.key, threads)
                running[crew.begin(errand, task)] = task
        for begun in crew.finished(list(running)):
            stage = running.pop(begun).stage
            refusal = crew.outcome(begun, stage.name)
            if refusal is not None:
                refused = ServaxError(refusal.sentence)
                refused.exit_code = refusal.exit_code
                raise refused
            seen(stage, storage)
            watcher.finish(stage.name, cached=False)


def perform_errand(errand: Errand, watcher: Watcher) -> Refusal | None:
    """Perform one stage of a run; return the sentence it was refused with, if it was."""
    name = errand.name
    try:
        tasks, storage = _made(errand.order, errand.place)
        task = tasks.get(name)
        if task is None or task.stage.key != errand.key:
            raise ServaxError(
                f"{name}: this stage is another one on {socket.gethostname()}, expected the same "
                "servax and the same recordings on every machine."
            )
        storage.fetch(task.stage)
        if task.stage.result() is None:
            for need in task.needs:
                seen(need, storage)
        storage.perform(task, watcher, threads=errand.threads)
    except ServaxError as error:
        return Refusal(str(error), error.exit_code)
    return None


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
def _made(order: Order, place: str) -> tuple[dict[str, Task], Storage]:
    """Return the stages of a run, by name, and its storage; made once in each process."""
    storage = Storage(place)
    if not storage.remote and not storage.folder.is_dir():
        raise ServaxError(
            f"{place}: is not there on {socket.gethostname()}; give a folder that all "
            "machines share, or a URL such as s3://…, as --out."
        )
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Processes that begin together on one machine: one extracts the features for all.
        with FileLock(cache / "prepare.lock"):
            return {task.stage.name: task for task in order.tasks(storage.folder)}, storage
    except OSError as error:
        raise ServaxError(f"{cache}: {unwritable(error)}.") from None
