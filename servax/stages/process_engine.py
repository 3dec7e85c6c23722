"""Performs stages side by side, in processes of this machine that are begun once."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import SimpleQueue, get_context
from multiprocessing.connection import Connection

from servax.errors import ServaxError
from servax.kinds import COUNT
from servax.runtime.processes import end_with_parent, keep_freed_memory
from servax.stages.engine import Crew, Engine, Errand, Refusal, perform_errand
from servax.stages.stage import Resources, Task, Watcher

GLANCE_SECONDS = 0.2
"""How often the watcher is told how far the workers are."""

Begun = Future[Refusal | None]


class ProcessEngine(Engine):
    """Performs the stages of a run in several processes of this machine.

    Each stage computes on the threads that `Resources` give it, one by default, so that its result
    is the same however many are at work. A script that uses this must guard its own start with
    ``if __name__ == "__main__":``, as all that begin processes.

    Args:
        jobs: How many stages are performed at once.

    Raises:
        SettingError: `jobs` is no whole number of at least 1.
    """

    def __init__(self, jobs: int) -> None:
        COUNT.check("jobs", jobs)
        self.jobs = jobs

    @contextmanager
    def crew(
        self, tasks: Sequence[Task], watcher: Watcher, resources: Resources, device: str
    ) -> Iterator[Crew]:
        """Begin workers when they are first needed; they end with the block, or with this process.

        They begin afresh (``spawn``): a copy of a process that computes with threads may hang.
        """
        context = get_context("spawn")
        steps: SimpleQueue[tuple[str, str]] = context.SimpleQueue()
        ours, theirs = context.Pipe()
        with ours, theirs:
            pool = ProcessPoolExecutor(self.jobs, context, _begin, (theirs, steps))
            try:
                yield _Processes(pool, steps, watcher, self.jobs)
            finally:
                ours.close()  # which ends them, whatever they are at
                pool.shutdown(cancel_futures=True)


class _Processes:
    """Workers of one pool, whose steps the watcher is told."""

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        steps: SimpleQueue[tuple[str, str]],
        watcher: Watcher,
        room: int,
    ) -> None:
        self.room: float = room
        self._pool, self._steps, self._watcher = pool, steps, watcher

    def begin(self, errand: Errand, task: Task) -> Begun:
        self._watcher.start(errand.name, task.steps)
        return self._pool.submit(_perform, errand)

    def finished(self, begun: Sequence[Begun]) -> Iterable[Begun]:
        done, _ = wait(begun, GLANCE_SECONDS, FIRST_COMPLETED)
        while not self._steps.empty():
            self._watcher.advance(*self._steps.get())
        return done

    def outcome(self, begun: Begun, name: str) -> Refusal | None:
        try:
            return begun.result()
        except BrokenProcessPool:
            raise ServaxError(
                f"{name}: its process was lost (killed, or out of memory); run the same command "
                "to go on: what is done is kept."
            ) from None


_steps: list[SimpleQueue[tuple[str, str]]] = []
"""Where this process tells its steps, if it is a worker."""


def _begin(end: Connection, steps: SimpleQueue[tuple[str, str]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent decides
    end_with_parent(end)
    keep_freed_memory()
    _steps.append(steps)


def _perform(errand: Errand) -> Refusal | None:
    return perform_errand(errand, _Teller(errand.name, _steps[0]))


@dataclass(frozen=True)
class _Teller(Watcher):
    """Tells the process that gave a stage each of its steps."""

    stage: str
    steps: SimpleQueue[tuple[str, str]]

    def advance(self, note: str = "", stage: str | None = None) -> None:
        self.steps.put((note, self.stage))
