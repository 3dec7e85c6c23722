"""What the machine offers: optional libraries, and its CPUs to share work out among."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from servax.errors import ServaxError

Given = TypeVar("Given")
Found = TypeVar("Found")
INSTALL = "pip install '.[{}]' in its checkout, or with its wheel in place of the dot"
"""How an extra comes. Nothing is published under the name: an index would give somebody else's
package."""
AHEAD = 2
"""Pieces that wait for each thread, so that none waits for the reader."""


def load_extra(module: str, *, what: str, extra: str | None = None) -> Any:
    """Return an optional library.

    Args:
        module: What is imported.
        what: What needs it, as the sentence names it.
        extra: The extra of servax that brings it; none where it is of the base install.

    Raises:
        ServaxError: It is not installed, or does not load.
    """
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        how = INSTALL.format(extra) if extra else f"pip install {module}"
        raise ServaxError(f"{what} needs {module} ({error}); install it with: {how}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a library says about its own old parts from people who cannot act on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute each sum on one thread inside the block: in others they round otherwise."""
    torch = sys.modules.get("torch")  # what is not loaded has no threads
    threads = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def in_order(
    work: Callable[[Given], Found],
    pieces: Iterable[Given],
    *,
    threads: int | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Iterator[Found]:
    """Yield what `work` makes of each piece, in their order; few pieces are ahead of the reader.

    For work that holds Python's lock little: reading, resampling, transforms. Each piece is
    computed by one thread as it would be alone, so results do not depend on how many there are.
    What `work` raises is raised when its piece's turn comes, and no further piece is begun.

    Args:
        work: Is called by several threads at once.
        pieces: Taken one by one, by the reader's thread.
        threads: How many; default one for each CPU.
        begin: Is called first by each thread: libraries keep some settings thread by thread.
    """
    count = threads or cpus()
    with ThreadPoolExecutor(count, "servax", begin) as pool:
        begun = (pool.submit(work, piece) for piece in pieces)
        ahead = deque(islice(begun, count * AHEAD))
        try:
            while ahead:
                found = ahead.popleft().result()
                ahead.extend(islice(begun, 1))
                yield found
        finally:
            pool.shutdown(cancel_futures=True)
