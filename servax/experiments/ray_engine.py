"""Performs the stages of a run as Ray tasks: on all cores of this machine, or on a cluster.

Ray schedules, moves and begins again; here stands only which stage may start when. A stage is given
to Ray when all that it needs is done, so that no task holds a CPU while it waits. What travels is
text (see `worker`); Ray wraps it in its own transport, pickle included, between the processes of
one user's cluster. Results lie in the run's folder, as those of the local engine do.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from servax.errors import ServaxError, SettingError
from servax.experiments.plan import Plan
from servax.experiments.stages import Stage, Task, Watcher
from servax.experiments.storage import Storage
from servax.experiments.worker import Order, Refusal, on_cluster, perform_order, seen

CONNECT_SECONDS = 5.0
JOIN_SECONDS = 60
"""For a port at which something listens that may be no cluster, or a busy one."""
OBJECT_STORE_BYTES = 100_000_000
"""Of a Ray started here; only texts pass through it."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
"""Nothing is reported to anyone, no working folder is uploaded, and a stage that reserves no GPU
sees none; a user's own settings go first."""
JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
ray.shutdown()
"""


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
        self._ray = _load_ray()
        if address is not None and not self._ray.is_initialized():
            _check_reachable(address, self._ray)

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
            with self._joined():
                _Conductor(self._ray, plan, storage, watcher).conduct(waiting)

    @contextmanager
    def _joined(self) -> Iterator[None]:
        ray = self._ray
        if ray.is_initialized():  # the caller's own session: neither begun nor ended here
            yield
            return
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address is None:
                ray.init(
                    address="local",
                    num_cpus=self.cpus or os.cpu_count(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
            else:
                ray.init(address=self.address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            place = self.address or "this machine"
            raise ServaxError(f"{place}: Ray does not start ({_line(error)}).") from error
        try:
            yield
        finally:
            ray.shutdown()


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
            raise ServaxError(f"{stage.name}: failed ({_line(error.cause or error)}).") from error
        except errors.RayError as error:
            raise ServaxError(
                f"{stage.name}: its machine or process was lost and it was begun again at most "
                f"{self.resources.retries} times (resources.retries); run the same command to go "
                f"on ({_line(error)})."
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


def _load_ray() -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ServaxError(
            f"engine ray needs Ray ({error}); install it with: pip install 'servax[ray]'"
        ) from None


def _check_reachable(address: str, ray: Any) -> None:
    """Refuse an address at which no cluster answers.

    Joining waits for minutes in native code, where no signal reaches it: a look at the port, then a
    process that can be ended tries first.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 65536):
            raise SettingError("address", address, "HOST:PORT of a cluster's head, or auto")
        host = host.strip("[]")
        if host in ("localhost", "127.0.0.1", "::1"):
            host = ray.util.get_node_ip_address()  # as Ray itself reads it
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error)) from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", JOIN, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=JOIN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer in {JOIN_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _unreachable(address, lines[-1] if lines else f"exit code {done.returncode}")


def _unreachable(address: str, reason: str) -> ServaxError:
    return ServaxError(
        f"{address}: no Ray cluster can be joined there ({reason.strip().rstrip('.')}); start one "
        "with ray start --head, run servax on one of its machines, and give HOST:PORT of its head."
    )


def _line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
