"""The requests inside: a bounded number, in the order they came, taken in batches."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from servax.service.orders import Result, Task


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
    waited: float = field(default=0.0)
    """Seconds from there to a worker."""


class Waiting:
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
