"""Performs the stages of a run as Ray tasks: on all cores of this machine, or on a cluster.

Ray schedules, moves and begins again; which stage may start when stands in `engine.py`. A stage is
given to Ray when all that it needs is done, so that no task holds a CPU while it waits. Ray wraps
the text of an errand in its own transport, pickle included, between the processes of one user's
cluster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from servax.errors import ServaxError, SettingError
from servax.stages.engine import Crew, Engine, Errand, Refusal, perform_errand
from servax.stages.ray_session import joined, last_line, ready
from servax.stages.stage import Resources, Task, Watcher


class RayEngine(Engine):
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

    @contextmanager
    def crew(
        self, tasks: Sequence[Task], watcher: Watcher, resources: Resources, device: str
    ) -> Iterator[Crew]:
        """Join the cluster, or start Ray here, inside the block.

        Raises:
            SettingError: No machine of the cluster is large enough for a task.
        """
        with joined(self._ray, self.address, self.cpus):
            check_room(self._ray, tasks, resources, device)
            cluster = _Cluster(self._ray, watcher, resources)
            try:
                yield cluster
            finally:
                for each in cluster.at_work:
                    self._ray.cancel(each, force=True)


class _Cluster:
    """Workers of Ray, who are as many as it can keep."""

    room = math.inf

    def __init__(self, ray: Any, watcher: Watcher, resources: Resources) -> None:
        self._ray, self._watcher, self._resources = ray, watcher, resources
        self.at_work: set[Any] = set()

    def begin(self, errand: Errand, task: Task) -> Any:
        remote = self._ray.remote(perform_errand).options(
            name=errand.name,
            num_cpus=errand.threads,
            num_gpus=self._resources.of(task).gpus,
            # A lost machine or process; what the work itself refuses would be refused again.
            max_retries=self._resources.retries,
            retry_exceptions=False,
        )
        begun = remote.remote(errand, Watcher())
        self.at_work.add(begun)
        return begun

    def finished(self, begun: Sequence[Any]) -> Iterable[Any]:
        done, _ = self._ray.wait(list(begun), num_returns=1)
        self.at_work -= set(done)
        return list(done)

    def outcome(self, begun: Any, name: str) -> Refusal | None:
        errors = self._ray.exceptions
        try:
            refusal: Refusal | None = self._ray.get(begun)
        except errors.RayTaskError as error:
            raise ServaxError(f"{name}: failed ({last_line(error.cause or error)}).") from error
        except errors.RayError as error:
            raise ServaxError(
                f"{name}: its machine or process was lost and it was begun again at most "
                f"{self._resources.retries} times (resources.retries); run the same command to go "
                f"on ({last_line(error)})."
            ) from error
        # Ray does not tell when it begins a task: a stage is seen when it is done.
        self._watcher.start(name, 1)
        self._watcher.advance()
        return refusal


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
