"""Accepts a bounded number of tasks, batches them for workers, and begins lost workers anew."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from servax.service.responses import Refusal
from servax.service.settings import ServiceSettings
from servax.service.telemetry import Log, Metrics, resident_bytes
from servax.service.worker import Broke, Result, Task, UnusableError, Worker, WorkerLost

TRIES = 2
"""Workers that may be lost over one task."""
LONGEST_RETRY_SECONDS = 60
LONGEST_PAUSE_SECONDS = 10.0
"""Between two tries to begin a worker that dies while it loads."""
PATIENT_SECONDS = 1.0
SLOWEST_BODY = 16_384
"""Where all places are taken, a body that still arrives after `PATIENT_SECONDS` at fewer bytes per
second than this gives its place away: others could be answered meanwhile."""
PACE = 0.1
"""Weight of the newest batch in the mean time of a task."""


@dataclass(eq=False)
class Place:
    """A place inside, held from before the body of a request is read until its answer has left."""

    since: float
    """When it was taken, on the clock of the event loop."""
    arriving: asyncio.Timeout | None = None
    """What ends the wait for the body; none before and after."""
    received: int = 0
    """Bytes of the body so far."""
    given_away: bool = False
    """Whether another request has it now."""
    stream: bool = False
    """Whether it is that of live sound, which stays as long as its client likes."""

    def give_away(self) -> None:
        """End the wait for the body: another request has the place now."""
        self.given_away = True
        if self.arriving is not None:
            self.arriving.reschedule(asyncio.get_running_loop().time())

    def rate(self, now: float) -> float:
        """Return how fast a body is arriving that had time to, in bytes per second."""
        waits = self.arriving is not None and not self.arriving.expired()
        seconds = now - self.since
        return self.received / seconds if waits and seconds > PATIENT_SECONDS else math.inf


@dataclass(eq=False)
class Ticket:
    """A task that waits for its result."""

    task: Task
    answer: asyncio.Future[Result]
    """Cancelled when nobody waits for it any more."""
    since: float
    """When it came, on the clock of the event loop."""
    lost: int = 0
    """How many workers were lost over it."""
    waited: float = 0.0
    """Seconds from there to a worker."""

    def settle(self, result: Result) -> None:
        """Give the result to who waits for it, if somebody still does."""
        if not self.answer.done():
            self.answer.set_result(result)


class Queue:
    """Tickets that wait for a worker; those that nobody waits for any more are forgotten.

    Args:
        batch: How many that are faster together go at once.
        wait_seconds: How long such a ticket waits for others.
    """

    def __init__(self, batch: int, wait_seconds: float) -> None:
        self._batch = batch
        self._wait_seconds = wait_seconds
        self._tickets: deque[Ticket] = deque()
        self._suspects: deque[Ticket] = deque()
        self._changed = asyncio.Event()
        self._takers = 0

    def __len__(self) -> int:
        return sum(not each.answer.done() for each in (*self._tickets, *self._suspects))

    def put(self, ticket: Ticket) -> None:
        """Add a ticket behind the others."""
        self._tickets.append(ticket)
        self.wake()

    def put_back(self, ticket: Ticket) -> None:
        """Add a ticket over which a worker was lost: it comes next, and alone."""
        self._suspects.append(ticket)
        self.wake()

    def wake(self) -> None:
        """Let all who wait look again."""
        self._changed.set()
        self._changed.clear()

    async def take(self, alive: Callable[[], bool]) -> list[Ticket]:
        """Return tickets for one worker; none once it is no longer alive."""
        clock = asyncio.get_running_loop().time
        while alive():
            patience = None
            self._tickets, self._suspects = map(_still_asked, (self._tickets, self._suspects))
            if self._suspects:
                return [self._suspects.popleft()]
            if self._tickets:
                oldest = self._tickets[0]
                patience = oldest.since + self._wait_seconds - clock()
                if not oldest.task.together or patience <= 0 or self._friends() >= self._batch:
                    return self._taken(oldest)
            await self._change(patience)
        return []

    def _friends(self) -> int:
        return sum(each.task.together for each in self._tickets)

    def _taken(self, oldest: Ticket) -> list[Ticket]:
        if not oldest.task.together:
            return [self._tickets.popleft()]
        # Others that are idle get their share: half the wait is worth more than a larger batch.
        share = min(self._batch, math.ceil(self._friends() / (1 + self._takers)))
        taken = [each for each in self._tickets if each.task.together][:share]
        for each in taken:
            self._tickets.remove(each)
        return taken

    async def _change(self, patience: float | None) -> None:
        self._takers += 1
        try:
            await asyncio.wait_for(self._changed.wait(), patience)
        except TimeoutError:
            pass
        finally:
            self._takers -= 1


def _still_asked(tickets: deque[Ticket]) -> deque[Ticket]:
    return deque(each for each in tickets if not each.answer.done())


class Dispatcher:
    """The workers, and what waits for them.

    Args:
        settings: Of the service.
        log: For what happens to workers.
        metrics: Counts it.
    """

    def __init__(self, settings: ServiceSettings, log: Log, metrics: Metrics) -> None:
        self.settings = settings
        self._log = log
        self._metrics = metrics
        self._waiting = Queue(settings.batch, settings.batch_wait / 1000)
        self._workers = [Worker(settings, self._waiting.wake) for _ in range(settings.worker_count)]
        self._lanes: list[asyncio.Task[None]] = []
        self._places: set[Place] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._pending: set[Ticket] = set()
        self._task_seconds: float | None = None
        self._began_once: set[int] = set()
        self._loaded = asyncio.Event()
        self.closing = False
        """Whether nothing new is accepted."""
        metrics.in_flight.set_function(lambda: len(self._places))
        metrics.queue_length.set_function(lambda: len(self._waiting))
        metrics.workers_ready.set_function(lambda: self.workers_ready)
        for number, worker in enumerate(self._workers):
            metrics.worker_memory.labels(number).set_function(partial(_memory_of, worker))
        self.failed: asyncio.Future[UnusableError] = asyncio.get_running_loop().create_future()
        """Gets the reason once it is known that no worker can ever work."""

    def start(self) -> None:
        """Begin all workers, unless they have begun; returns before they have loaded."""
        self._lanes = self._lanes or [
            asyncio.create_task(self._lane(number, worker))
            for number, worker in enumerate(self._workers)
        ]

    async def loaded(self) -> None:
        """Return once a worker has loaded its networks.

        Raises:
            UnusableError: No worker can.
        """
        loaded: asyncio.Future[Any] = asyncio.ensure_future(self._loaded.wait())
        waits: set[asyncio.Future[Any]] = {loaded, self.failed}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        loaded.cancel()
        if self.failed.done():
            raise self.failed.result()

    @property
    def workers_ready(self) -> int:
        """Return how many workers have loaded and live."""
        return sum(worker.alive for worker in self._workers)

    @property
    def ready(self) -> bool:
        """Say whether every worker has loaded once, one lives, and the service is not ending."""
        all_began = len(self._began_once) == len(self._workers)
        return all_began and self.workers_ready > 0 and not self.closing

    @property
    def full(self) -> bool:
        """Say whether every place is taken, and none of them would be given away."""
        return len(self._places) >= self.settings.queue and self._stalled() is None

    @property
    def pids(self) -> list[int]:
        """Return the ids of the processes of living workers."""
        return [worker.pid for worker in self._workers if worker.alive and worker.pid]

    def _stalled(self) -> Place | None:
        """Return the place of the slowest body, if it is too slow to keep others out."""
        now = asyncio.get_running_loop().time()
        slowest = min(self._places, key=lambda each: each.rate(now), default=None)
        return slowest if slowest is not None and slowest.rate(now) < SLOWEST_BODY else None

    @contextmanager
    def place(self, *, stream: bool = False) -> Iterator[Place]:
        """Hold one of the places inside; taken before the body of a request is read.

        Where all are taken it is that of the body that stalls most. Streams get a quarter of all.

        Args:
            stream: Whether it is for live sound.

        Raises:
            Refusal: All are taken, or the service is ending.
        """
        if self.closing:
            raise later(503, "shutting_down", "The service is ending; send this to another one.")
        streams = sum(each.stream for each in self._places)
        if stream and streams >= max(1, self.settings.queue // 4):
            told = f"{streams} streams are open, as many as there is room for; try again later."
            raise later(429, "busy", told)
        if len(self._places) >= self.settings.queue:
            stalled = self._stalled()
            if stalled is None:
                raise self._busy()
            self._places.discard(stalled)
            stalled.give_away()
        place = Place(asyncio.get_running_loop().time(), stream=stream)
        self._places.add(place)
        self._empty.clear()
        try:
            yield place
        finally:
            self._places.discard(place)
            if not self._places:
                self._empty.set()

    def _busy(self) -> Refusal:
        inside = len(self._places)
        pace = (self._task_seconds or 0.0) / max(1, self.workers_ready)
        return later(
            429,
            "busy",
            f"{inside} requests are inside, as many as there is room for; try again after the "
            "seconds in Retry-After.",
            max(1, min(math.ceil(inside * pace), LONGEST_RETRY_SECONDS)),
        )

    def put(self, task: Task) -> Ticket:
        """Let a task wait for a worker; its ticket gets the result."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(task, loop.create_future(), loop.time())
        self._pending.add(ticket)
        ticket.answer.add_done_callback(lambda _: self._pending.discard(ticket))
        self._waiting.put(ticket)
        return ticket

    async def drain(self) -> None:
        """Accept nothing new, and return when everything inside is answered, or time is over."""
        self.closing = True
        try:
            await asyncio.wait_for(self._empty.wait(), self.settings.shutdown_seconds)
        except TimeoutError:
            for ticket in list(self._pending):
                ended = "The service ended before the answer."
                ticket.settle(later(503, "shutting_down", ended))

    async def stop(self) -> None:
        """End all workers."""
        self.closing = True
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        for worker in self._workers:
            worker.stop()

    async def _lane(self, number: int, worker: Worker) -> None:
        """Keep one worker at work for ever."""
        pause = 0.5
        while True:
            try:
                pid = await worker.start()
            except WorkerLost:
                self._lost(number, 0)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            except UnusableError as error:
                if not self.failed.done():
                    self.failed.set_result(error)
                return
            pause = 0.5
            self._began_once.add(number)
            self._loaded.set()
            self._log.info("worker_ready", worker=number, pid=pid)
            while worker.alive:
                tickets = await self._waiting.take(lambda: worker.alive)
                if tickets:
                    await self._send(number, worker, tickets)
            if worker.pid is not None:  # died while it was idle
                self._lost(number, 0)

    async def _send(self, number: int, worker: Worker, tickets: list[Ticket]) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        for ticket in tickets:
            ticket.waited = begun - ticket.since
        results: Sequence[Result]
        try:
            results = await worker.work([ticket.task for ticket in tickets])
        except WorkerLost as lost:
            self._lost(number, len(tickets))
            for ticket in tickets:
                self._again(ticket, blame=lost.begun)
            return
        except Exception as error:  # what cannot be pickled
            results = [Broke(type(error).__name__, ()) for _ in tickets]
        self._pace((clock() - begun) / len(tickets))
        self._metrics.batch_size.observe(len(tickets))
        for ticket, result in zip(tickets, results, strict=True):
            ticket.settle(result)

    def _again(self, ticket: Ticket, *, blame: bool) -> None:
        ticket.lost += blame
        if ticket.answer.done():
            return
        if ticket.lost < TRIES:
            self._waiting.put_back(ticket)
            return
        sentence = (
            f"{TRIES} workers crashed, were killed, or took longer than "
            f"{self.settings.work_seconds:g} s over this sound; it is not tried again."
        )
        ticket.settle(Refusal(500, "worker_lost", sentence))

    def _lost(self, number: int, tasks: int) -> None:
        self._metrics.worker_restarts.inc()
        self._log.warning("worker_lost", worker=number, tasks=tasks)

    def _pace(self, seconds: float) -> None:
        old = self._task_seconds
        self._task_seconds = seconds if old is None else old + PACE * (seconds - old)


def _memory_of(worker: Worker) -> float:
    return resident_bytes(worker.pid)


def later(status: int, code: str, sentence: str, seconds: int = 5) -> Refusal:
    """Return the refusal of a request that may be sent again after some seconds."""
    return Refusal(status, code, sentence, {"Retry-After": str(seconds)})
