"""A worker as the server sees it: one process that may die at any moment, and is begun anew.

Each worker is a process pool of its own with one process in it: no pipe is shared, so the death of
one is the end of one pool alone.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.process import BaseProcess

from servax.service import worker
from servax.service.queue import Result, Task
from servax.service.settings import ServiceSettings
from servax.service.worker import UnusableError

__all__ = ["UnusableError", "Worker", "WorkerLost"]

LOAD_SECONDS = 300.0
"""A machine may be busy; a worker that takes longer than this to load never will."""


class WorkerLost(Exception):  # noqa: N818 - what happened, not what was wrong
    """The process of a worker died, or was killed because it took too long.

    Args:
        begun: Whether it may have begun with the tasks it was given.
    """

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Worker:
    """One process that holds the networks.

    Args:
        settings: Of the service.
        on_death: Called in the event loop when the process has died.
    """

    def __init__(self, settings: ServiceSettings, on_death: Callable[[], None]) -> None:
        self._settings = settings
        self._on_death = on_death
        self._executor: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self.alive = False
        """Whether it has loaded and is not known to be dead."""

    @property
    def pid(self) -> int | None:
        """Return the id of its process, none while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> int:
        """Begin a process and load the networks in it; return its id.

        Raises:
            WorkerLost: It died meanwhile, or took too long.
            UnusableError: The networks are missing, broken or do not fit each other.
        """
        self.stop()
        before = {each.pid for each in multiprocessing.active_children()}
        executor = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=worker.begin
        )
        self._executor = executor
        names = (self._settings.purifier, self._settings.model)
        try:
            future = executor.submit(worker.load, *names)
            # Without await between the two, no other worker can have begun one.
            begun = [each for each in multiprocessing.active_children() if each.pid not in before]
            self._process = begun[0] if begun else None
            pid = await asyncio.wait_for(asyncio.wrap_future(future), LOAD_SECONDS)
        except (BrokenProcessPool, TimeoutError, OSError):  # OSError: no room for a process
            self.stop()
            raise WorkerLost(begun=False) from None
        self.alive = True
        if self._process is not None:
            asyncio.get_running_loop().add_reader(self._process.sentinel, self._died)
        return pid

    async def work(self, tasks: Sequence[Task]) -> list[Result]:
        """Return the results of tasks.

        Raises:
            WorkerLost: The process died, or was killed after `work_seconds`.
        """
        if self._executor is None or not self.alive:
            self.stop()
            raise WorkerLost(begun=False)
        try:
            future = self._executor.submit(worker.work, tuple(tasks), self._settings)
        except BrokenProcessPool:
            self.stop()
            raise WorkerLost(begun=False) from None
        try:
            waiting = asyncio.wrap_future(future)
            return await asyncio.wait_for(waiting, self._settings.work_seconds)
        except (BrokenProcessPool, TimeoutError):
            self.stop()
            raise WorkerLost(begun=True) from None

    def stop(self) -> None:
        """End the process, whatever it is at."""
        self._unwatch()
        self.alive = False
        if self._process is not None:
            # A process that was waited for already has a number that may be another's by now:
            # `kill` knows, `os.kill` does not.
            with suppress(ValueError, ProcessLookupError):
                self._process.kill()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._process = None

    def _unwatch(self) -> None:
        if self._process is not None and self.alive:
            asyncio.get_running_loop().remove_reader(self._process.sentinel)

    def _died(self) -> None:
        self._unwatch()
        self.alive = False
        self._on_death()
