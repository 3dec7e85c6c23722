"""Performs the stages of a run as Ray tasks: on all cores of this machine, or on a cluster.

Ray schedules, moves and begins again; here stands only which stage may start when. A stage is given
to Ray when all that it needs is done, so that no task holds a CPU while it waits. What travels is
text (see `worker`); Ray wraps it in its own transport, pickle included, between the processes of
one user's cluster. Results lie in the run's folder, as those of the local engine do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servax.errors import ServaxError, SettingError
from servax.experiments.plan import Plan
from servax.experiments.ray_session import check_reachable, joined, last_line, load_ray
from servax.experiments.stages import Stage, Task, Watcher
from servax.experiments.storage import Storage
from servax.experiments.worker import Order, Refusal, on_cluster, perform_order, seen


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
        self.resources = on_cluster(plan.prepared.recipe.resources)
        self.device = plan.prepared.recipe.compute.device
        self.order = Order.of(plan, storage)
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
        ).remote(self.order, task.stage.name, task.stage.key)

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
