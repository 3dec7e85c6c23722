"""Performs the stages of a run as Ray tasks: on all cores of this machine, or on a cluster.

Ray schedules, moves and begins again; here stands only which stage may start when. A stage is given
to Ray when all that it needs is done, so that no task holds a CPU while it waits.

The work of a stage is a closure over datasets, which do not travel. Each worker process makes the
stages itself, once, from an order, which is text, and the recordings on its own machine; the hash
of a stage, which names the recordings too, tells whether it is the same. Ray wraps the text in its
own transport, pickle included, between the processes of one user's cluster. Results lie in the
run's folder, as those of one process do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock

from servax.corpora import cache_folder
from servax.errors import ServaxError, SettingError, unwritable
from servax.stages.ray_session import joined, last_line, ready
from servax.stages.stage import Resources, Stage, Task, Watcher
from servax.stages.storage import Storage

PATIENCE_SECONDS = 60.0
"""How long a result may take to be seen on another machine; NFS shows new files late."""


class Order(Hashable, Protocol):
    """The stages of a run as text, which travels; a process makes those of one only once."""

    def tasks(self, folder: Path) -> Sequence[Task]:
        """Return the stages, with their results in `folder`."""


class RayEngine:
    """Performs the stages of a run as Ray tasks.

    Args:
        address: ``HOST:PORT`` of a cluster's head, or ``auto`` for the cluster of this machine;
            none starts Ray here and stops it afterwards.
        cpus: CPUs of a Ray that is started here; default all.

    Raises:
        ServaxError: Ray is not installed, or no cluster can be reached at the address.
    """

    def __init__(self, address: str | None = None, *, cpus: int | None = None) -> None:
        if cpus is not None and cpus < 1:
            raise SettingError("cpus", cpus, "a whole number of at least 1, or none for all")
        self.address, self.cpus = address, cpus
        self._ray = ready(address)

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
            order: What makes these stages on another machine.
            resources: What they take of a machine.
            device: Where they compute: `cpu`, `cuda`, ….

        Raises:
            ServaxError: A stage was refused or its machine was lost too often, or no machine of
                the cluster is large enough for it.
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
            with joined(self._ray, self.address, self.cpus):
                check_room(self._ray, waiting, resources, device)
                _Conductor(self._ray, storage, watcher, order, resources).conduct(waiting)


@dataclass(frozen=True)
class _Conductor:
    """Gives stages to Ray as soon as all that they need is done."""

    ray: Any
    storage: Storage
    watcher: Watcher
    order: Order
    resources: Resources

    def conduct(self, waiting: list[Task]) -> None:
        """Perform all tasks; the first that is refused ends them all."""
        running: dict[Any, Task] = {}
        try:
            while waiting or running:
                open_keys = {task.stage.key for task in [*waiting, *running.values()]}
                begun = [t for t in waiting if not open_keys & {need.key for need in t.needs}]
                waiting = [task for task in waiting if task not in begun]
                running |= {self._submit(task): task for task in begun}
                finished, _ = self.ray.wait(list(running), num_returns=1)
                for reference in finished:
                    self._take(reference, running.pop(reference))
        finally:
            for reference in running:  # after a refusal, or Ctrl-C
                self.ray.cancel(reference, force=True)

    def _submit(self, task: Task) -> Any:
        share = self.resources.of(task)
        cpus = share.cpus or 1
        place = self.storage.place if self.storage.remote else str(self.storage.folder.resolve())
        remote = self.ray.remote(perform_order).options(
            name=task.stage.name,
            num_cpus=cpus,
            num_gpus=share.gpus,
            # A lost machine or process; what the work itself refuses would be refused again.
            max_retries=self.resources.retries,
            retry_exceptions=False,
        )
        return remote.remote(self.order, place, task.stage.name, task.stage.key, cpus)

    def _take(self, reference: Any, task: Task) -> None:
        """Take note of what became of a task."""
        name, errors = task.stage.name, self.ray.exceptions
        try:
            refusal = self.ray.get(reference)
        except errors.RayTaskError as error:
            raise ServaxError(f"{name}: failed ({last_line(error.cause or error)}).") from error
        except errors.RayError as error:
            raise ServaxError(
                f"{name}: its machine or process was lost and it was begun again at most "
                f"{self.resources.retries} times (resources.retries); run the same command to go "
                f"on ({last_line(error)})."
            ) from error
        if refusal is not None:
            refused = ServaxError(refusal.sentence)
            refused.exit_code = refusal.exit_code
            raise refused
        seen(task.stage, self.storage)
        # Ray does not tell when it begins a task: a stage is seen when it is done.
        self.watcher.start(name, 1)
        self.watcher.advance()
        self.watcher.finish(name, cached=False)


def check_room(ray: Any, tasks: Sequence[Task], resources: Resources, device: str) -> None:
    """Refuse a share that no machine has: Ray would wait for one without a word.

    Raises:
        SettingError: The largest machine is too small, or no GPU is reserved where one is needed.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, share in sorted({task.kind: resources.of(task) for task in tasks}.items()):
        if device.startswith("cuda") and not share.gpus:
            raise SettingError(
                f"resources.{kind}.gpus",
                share.gpus,
                f"more than 0: compute.device is {device}, and Ray hides GPUs from a "
                "stage that reserves none",
            )
        for unit, wanted in (("CPU", share.cpus or 1), ("GPU", share.gpus)):
            most = max((node.get(unit, 0.0) for node in nodes), default=0.0)
            if wanted > most:
                expected = f"at most {most:g}, the {unit}s of the largest machine"
                raise SettingError(f"resources.{kind}.{unit.lower()}s", wanted, expected)


class Refusal(NamedTuple):
    """A sentence that a stage ended with; an error itself may not survive the way back."""

    sentence: str
    exit_code: int


def perform_order(order: Order, place: str, name: str, key: str, threads: int) -> Refusal | None:
    """Perform one stage of a run; return the sentence it was refused with, if it was.

    Args:
        order: All stages.
        place: Where the run lies: its folder, absolute, or its URL.
        name: Of the stage, for people.
        key: Hash of its settings, as the process that began the run has it.
        threads: That its work may use.
    """
    try:
        tasks, storage = _made(order, place)
        task = tasks.get(name)
        if task is None or task.stage.key != key:
            raise ServaxError(
                f"{name}: this stage is another one on {socket.gethostname()}, expected the same "
                "servax and the same recordings on every machine."
            )
        storage.fetch(task.stage)
        if task.stage.result() is None:
            for need in task.needs:
                seen(need, storage)
        storage.perform(task, Watcher(), threads=threads)
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
