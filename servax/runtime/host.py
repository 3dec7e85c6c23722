"""What the machine offers: optional libraries, and the CPUs and memory that may be used."""

from __future__ import annotations

import importlib
import math
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from servax.errors import ServaxError

Given = TypeVar("Given")
Found = TypeVar("Found")
INSTALL = "pip install '.[{}]' in its checkout, or with its wheel in place of the dot"
"""How an extra comes. Nothing is published under the name: an index would give somebody else's
package."""
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
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
    """Return how many CPUs this process may use: all it may run on, or its share of their time.

    A container that may use 1.5 of 16 CPUs sees all 16; 2 are taken.
    """
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    shares = [_share(said) for said in _of_groups("cpu", "cpu.max")]
    quotas = _of_groups("cpu", "cpu.cfs_quota_us")
    periods = _of_groups("cpu", "cpu.cfs_period_us")
    shares += [_share(f"{q} {p}") for q, p in zip(quotas, periods, strict=False)]
    return max(1, math.ceil(min([there, *shares])))


def memory_bytes() -> int | None:
    """Return how much memory this process and its children may use; none where nothing tells."""
    said = [*_of_groups("memory", "memory.max"), *_of_groups("memory", "memory.limit_in_bytes")]
    limits = [int(each) for each in said if each.isdecimal()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def _share(said: str) -> float:
    """Return how many CPUs a quota and its period allow, both in microseconds."""
    quota, _, period = said.partition(" ")
    limited = quota.isdecimal() and period.isdecimal() and int(period) > 0  # else "max", or -1
    return int(quota) / int(period) if limited else math.inf


def _of_groups(controller: str, name: str) -> list[str]:
    """Return what a file says in the control groups of this process, up to the outermost.

    Of version 2 all controllers share one tree, of version 1 (cgroups(7)) each has its own.
    """
    try:
        lines = OWN_GROUPS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # no Linux
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = GROUPS / controller if controllers else GROUPS
        # In a container the path may be that of the machine outside: then only the top is there.
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            with suppress(OSError):
                found.append((folder / name).read_text("ascii").strip())
    return found


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
