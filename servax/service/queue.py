"""What waits for a worker, and what comes back.

Tasks and results are plain values that travel by pickle; both ends are processes of this service,
and nothing that a client sent is ever unpickled. Nothing here loads torch: the server process needs
none.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from servax.service.responses import Container, Refusal

Kind = Literal["purify", "classify"]


@dataclass(frozen=True)
class SoundTask:
    """One sound and what is to be done with it."""

    kind: Kind
    """Sound out, or probabilities."""
    body: bytes
    """The sound as it was sent."""
    container: Container = "wav"
    """How purified sound is sent back."""

    @property
    def together(self) -> bool:
        """Say whether several are faster than one by one.

        A purified sound keeps its own length and level, so sounds are purified one by one; sent
        together they would only wait for each other.
        """
        return self.kind == "classify"


@dataclass(frozen=True)
class Call:
    """A function that a worker calls with its `Models` and further arguments."""

    function: Callable[..., Any]
    """Of the top level of a module."""
    arguments: tuple[Any, ...] = ()
    """Behind the models; they and the result travel by pickle."""
    together: bool = False


Task = SoundTask | Call


@dataclass(frozen=True)
class SoundFacts:
    """What a sound turned out to be; this much may be logged."""

    seconds: float
    """How long it plays."""
    rate: int
    """In hertz."""
    channels: int
    """Before they are averaged."""
    container: str
    """In libsndfile's words, e.g. ``WAV``."""


@dataclass(frozen=True)
class Done:
    """A task that succeeded."""

    content: Any
    """`Purified` for `purify`, `Classification` for `classify`."""
    sound: SoundFacts | None = None


@dataclass(frozen=True)
class Broke:
    """A task that raised what nobody foresaw.

    The message stays behind: it might quote samples.
    """

    error: str
    """Name of the exception's type."""
    where: tuple[str, ...]
    """Function and line of each frame, the innermost last."""


Result = Done | Refusal | Broke


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
    """Tickets that wait for a worker.

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
        return len(self._tickets) + len(self._suspects)

    def put(self, ticket: Ticket) -> None:
        """Add a ticket behind the others."""
        self._tickets.append(ticket)
        self.wake()

    def put_back(self, ticket: Ticket) -> None:
        """Add a ticket over which a worker was lost: it comes next, and alone."""
        self._suspects.append(ticket)
        self.wake()

    def withdraw(self, ticket: Ticket) -> None:
        """Forget a ticket that nobody waits for any more, wherever it is."""
        ticket.answer.cancel()
        for queue in (self._tickets, self._suspects):
            if ticket in queue:
                queue.remove(ticket)

    def wake(self) -> None:
        """Let all who wait look again."""
        self._changed.set()
        self._changed.clear()

    async def take(self, alive: Callable[[], bool]) -> list[Ticket]:
        """Return tickets for one worker; none once it is no longer alive."""
        clock = asyncio.get_running_loop().time
        while alive():
            if self._suspects:
                return [self._suspects.popleft()]
            patience = None
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
