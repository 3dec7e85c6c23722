"""Performs the stages of a plan as Ray tasks: on all cores of this machine, or on a cluster.

Ray schedules, moves and begins again; here stands only which stage may start when. A stage is given
to Ray when all that it needs is done, so that no task holds a CPU while it waits.

The work of a stage is a closure over datasets, which do not travel. Each worker process makes the
plan itself, once, from an order, which is text, and the recordings on its own machine; the hash of
the stage, which names the recordings too, tells whether it is the same plan. Ray wraps the text in
its own transport, pickle included, between the processes of one user's cluster. Results lie in the
run's folder, as those of the local engine do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from filelock import FileLock

from servax.corpora import cache_folder
from servax.errors import ServaxError, SettingError, unwritable
from servax.stages.engine import Order, Plan, Resources, Share, perform_here
from servax.stages.ray_session import check_reachable, joined, last_line, load_ray
from servax.stages.stage import Stage, Task, Watcher
from servax.stages.storage import Storage, is_url

PATIENCE_SECONDS = 60.0
"""How long a result may take to be seen on another machine; NFS shows new files late."""


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
        self._ray = load_ray()
        if address is not None and not self._ray.is_initialized():
            check_reachable(address, self._ray)

    def perform(self, plan: Plan, storage: Storage, watcher: Watcher) -> None:
        """Complete every stage of a plan that is not done yet, and bring all results here.

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
        for task in plan.tasks:
            storage.fetch(task.stage)
            if task.stage.result() is None:
                waiting.append(task)
            else:
                storage.push(task.stage)
                watcher.finish(task.stage.name, cached=True)
        if waiting:
            with joined(self._ray, self.address, self.cpus):
                _Conductor(self._ray, plan, storage, watcher).conduct(waiting)


class _Conductor:
    """Gives stages to Ray as soon as all that they need is done."""

    def __init__(self, ray: Any, plan: Plan, storage: Storage, watcher: Watcher) -> None:
        self.ray, self.storage, self.watcher = ray, storage, watcher
        self.resources, self.device = on_cluster(plan.resources), plan.device
        self.order = plan.order()
        self.place = storage.place if is_url(storage.place) else str(storage.folder.resolve())
        self.remote = ray.remote(perform_order)

    def conduct(self, tasks: Sequence[Task]) -> None:
        """Perform all tasks; the first that is refused ends them all."""
        self._check_room(tasks)
        waiting = list(tasks)
        running: dict[Any, Task] = {}
        try:
            while waiting or running:
                open_keys = {task.stage.key for task in [*waiting, *running.values()]}
                ready = [t for t in waiting if not open_keys & {need.key for need in t.needs}]
                waiting = [task for task in waiting if task not in ready]
                running |= {self._submit(task): task for task in ready}
                finished, _ = self.ray.wait(list(running), num_returns=1)
                for reference in finished:
                    self._take(reference, running.pop(reference))
        finally:
            for reference in running:  # after a refusal, or Ctrl-C
                self.ray.cancel(reference, force=True)

    def _submit(self, task: Task) -> Any:
        share = self.resources.of(task.kind)
        return self.remote.options(
            name=task.stage.name,
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            # A lost machine or process; what the work itself refuses would be refused again.
            max_retries=self.resources.retries,
            retry_exceptions=False,
        ).remote(self.order, self.place, task.stage.name, task.stage.key)

    def _take(self, reference: Any, task: Task) -> None:
        """Take note of what became of a task."""
        answer = self._answer(reference, task.stage)
        if isinstance(answer, Refusal):
            error = ServaxError(answer.sentence)
            error.exit_code = answer.exit_code
            raise error
        seen(task.stage, self.storage)
        # Ray does not tell when it begins a task: a stage is seen when it is done.
        self.watcher.start(task.stage.name, 1)
        self.watcher.advance()
        self.watcher.finish(task.stage.name, cached=False)

    def _answer(self, reference: Any, stage: Stage) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            raise ServaxError(
                f"{stage.name}: failed ({last_line(error.cause or error)})."
            ) from error
        except errors.RayError as error:
            raise ServaxError(
                f"{stage.name}: its machine or process was lost and it was begun again at most "
                f"{self.resources.retries} times (resources.retries); run the same command to go "
                f"on ({last_line(error)})."
            ) from error

    def _check_room(self, tasks: Sequence[Task]) -> None:
        """Refuse a share that no machine has: Ray would wait for one without a word."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        for kind in sorted({task.kind for task in tasks}):
            share = self.resources.of(kind)
            if self.device.startswith("cuda") and not share.gpus:
                raise SettingError(
                    f"resources.{kind}.gpus",
                    share.gpus,
                    f"more than 0: compute.device is {self.device}, and Ray hides GPUs from a "
                    "stage that reserves none",
                )
            for key, unit, wanted in (("cpus", "CPU", share.cpus), ("gpus", "GPU", share.gpus)):
                most = max((node.get(unit, 0.0) for node in nodes), default=0.0)
                if wanted and wanted > most:
                    expected = f"at most {most:g}, the {unit}s of the largest machine"
                    raise SettingError(f"resources.{kind}.{key}", wanted, expected)


@dataclass(frozen=True)
class Refusal:
    """A sentence that a stage ended with; an error itself may not survive the way back."""

    sentence: str
    exit_code: int


def perform_order(order: Order, place: str, name: str, key: str) -> Refusal | None:
    """Perform one stage of a plan; return the sentence it was refused with, if it was.

    Args:
        order: The plan.
        place: Where the run lies: its folder, absolute, or its URL.
        name: Of the stage, for people.
        key: Hash of its settings, as the process that began the run has it.
    """
    try:
        plan, storage = _made(order, place)
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
        perform_here(task, on_cluster(plan.resources), Watcher(), storage)
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
def _made(order: Order, place: str) -> tuple[Plan, Storage]:
    """Return the plan and the storage of a run; made once in each process."""
    storage = Storage.of(place)
    if not is_url(place) and not storage.folder.is_dir():
        raise ServaxError(
            f"{place}: is not there on {socket.gethostname()}; give a folder that all "
            "machines share, or a URL such as s3://…, as --out."
        )
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Processes that begin together on one machine: one extracts the features for all.
        with FileLock(cache / "prepare.lock"):
            return order.plan(storage.folder), storage
    except OSError as error:
        raise ServaxError(f"{cache}: {unwritable(error)}.") from None
