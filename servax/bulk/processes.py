"""Purifies many files on this machine, in this process or in several.

A clip is too short to be shared out among threads, so each process computes on one thread and the
processes take files by turns: the bytes are the same, however many there are. Processes begin
afresh (``spawn``): a copy of one that computes with threads may hang.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

import torch

from servax.bulk.files import purify_file
from servax.bulk.orders import Order, Outcome
from servax.errors import ServaxError, SettingError
from servax.features import one_thread
from servax.purifier import Purifier
from servax.runtime.sharing import cpus

BYTES_WORTH_A_WORKER = 16 * 2**20
"""A worker begins in about 3 s, in which one that is there purifies so much 16-bit sound."""
IN_FLIGHT = 2
"""Orders handed to each worker at once: the next one waits where the last one ends."""


def purify_here(
    purifier: str,
    orders: Sequence[Order],
    *,
    overwrite: bool = False,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Yield what became of each order, as it is done; with several workers in any order.

    A script that calls this with several workers must guard its own start with
    ``if __name__ == "__main__":``, as all that begin processes.

    Args:
        purifier: Folder, name of a packaged one, or hub id.
        orders: What becomes what.
        overwrite: Replace targets that are there.
        workers: Processes, of one thread each; default as many as there are CPUs where there is
            work for them (`workers_for`), and no more than there are orders.

    Raises:
        SettingError: `workers` is below 1.
        ServaxError: The purifier cannot be read, or a worker was lost.
    """
    if workers is not None and workers < 1:
        raise SettingError("workers", workers, "a whole number of at least 1")
    count = min(workers or workers_for(orders), max(1, len(orders)))
    cleaner = Purifier.from_pretrained(purifier).frozen()  # refused here, before others begin
    if count > 1:
        yield from _spread(purifier, orders, overwrite, count)
        return
    for order in orders:
        with one_thread():
            outcome = purify_file(cleaner, order, overwrite=overwrite)
        yield outcome


def workers_for(orders: Sequence[Order]) -> int:
    """Return how many workers pay: one for each CPU this process may use, with enough bytes."""
    held = 0
    for order in orders:
        with suppress(
            OSError, ValueError
        ):  # a source that is not there is told when its turn comes
            held += Path(order.source).stat().st_size
    return min(cpus(), 1 + held // BYTES_WORTH_A_WORKER)


def _spread(
    purifier: str, orders: Sequence[Order], overwrite: bool, count: int
) -> Iterator[Outcome]:
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin, initargs=(purifier, overwrite)
    )
    waiting = iter(orders)
    try:
        at_work: set[Future[Outcome]] = {
            pool.submit(_purify, order) for order in islice(waiting, IN_FLIGHT * count)
        }
        while at_work:
            done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
            at_work |= {pool.submit(_purify, order) for order in islice(waiting, len(done))}
            for each in done:
                yield each.result()
    except BrokenProcessPool:
        raise ServaxError(
            "a worker process was lost (killed, or out of memory); run the same command to go on: "
            "what is done is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Held:
    """What a worker keeps from one file to the next."""

    purifier: Purifier
    overwrite: bool


def _begin(purifier: str, overwrite: bool) -> None:
    signal.signal(signal.SIGINT, _leave)
    torch.set_num_threads(1)
    _Held.purifier = Purifier.from_pretrained(purifier).frozen()
    _Held.overwrite = overwrite


def _leave(number: int, frame: FrameType | None) -> None:
    """End at Ctrl-C without a traceback; a file half written is removed on the way."""
    raise SystemExit(128 + number)


def _purify(order: Order) -> Outcome:
    return purify_file(_Held.purifier, order, overwrite=_Held.overwrite)
