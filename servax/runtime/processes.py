"""What a process of our own decides for itself: when it ends, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
from multiprocessing import connection

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt(3)."""
LARGEST = 2**30
"""In bytes: smaller pieces stay in the heap, and so much of its end may be unused."""
CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
"""Variables by which a user decides for glibc."""


def end_with_parent(*ends: connection.Connection) -> None:
    """End this process at once when its parent ends, or closes the other end of a pipe.

    A worker waits for its next task for ever, also when nobody is left who could give it one.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def end() -> None:
        connection.wait([parent.sentinel, *ends])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def keep_freed_memory() -> bool:
    """Keep what this process frees, instead of handing it back; say whether it will be so.

    What glibc frees above 32 MiB goes back to the system at once, and what it gets anew must be
    zeroed page by page. Activations of a full-width VGG-16 take 100 MiB each, so that a tenth to a
    third of a training step or an attack was spent so (benchmarks/notes.md). A library must not
    decide this for its host; the command line and its workers own their processes.

    It will not where the C library is not glibc, nor where a variable of mallopt(3) or
    GLIBC_TUNABLES decides already.
    """
    chosen = any(name in os.environ for name in CHOICES)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return all(mallopt(name, LARGEST) == 1 for name in (TRIM_THRESHOLD, MMAP_THRESHOLD))
