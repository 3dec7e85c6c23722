"""Shares independent work out among the CPUs of this process, in threads, and keeps its order.

For work that holds Python's lock little: reading, resampling, transforms. Each piece is computed by
one thread as it would be alone, so results do not depend on how many there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")
AHEAD = 2
"""Pieces that wait for each thread, so that none waits for the reader."""


def cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    work: Callable[[Given], Found],
    pieces: Iterable[Given],
    *,
    threads: int | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Iterator[Found]:
    """Yield what `work` makes of each piece, in their order; few pieces are ahead of the reader.

    What `work` raises is raised when its piece's turn comes, and no further piece is begun.

    Args:
        work: Is called by several threads at once.
        pieces: Taken one by one, by the reader's thread.
        threads: How many; default one for each CPU.
        begin: Is called first by each thread: libraries keep some settings thread by thread.
    """
    count = threads or cpus()
    if count == 1:
        begin()
        yield from map(work, pieces)
        return
    with ThreadPoolExecutor(count, "servax", begin) as pool:
        waiting = iter(pieces)
        ahead: deque[Future[Found]] = deque(
            pool.submit(work, piece) for piece in islice(waiting, count * AHEAD)
        )
        try:
            while ahead:
                found = ahead.popleft().result()
                ahead.extend(pool.submit(work, piece) for piece in islice(waiting, 1))
                yield found
        finally:
            for each in ahead:
                each.cancel()
