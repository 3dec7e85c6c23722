"""Purifies many files: on the CPUs of this machine, or by Ray on many machines.

A clip is too short to be shared out among threads, so each process computes on one thread and the
processes take files by turns: the bytes are the same, however many there are. Processes begin
afresh (``spawn``): a copy of one that computes with threads may hang.

A worker keeps its purifier. Ray gives the file of a lost worker to another; files are read and
written where the work is done, so every machine must see them under the same paths.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from servax import audio
from servax.errors import ServaxError
from servax.kinds import COUNT
from servax.purifier.files import cleaner_of, purify_file
from servax.purifier.plans import LOGMEL, FileJob, Outcome
from servax.runtime.host import cpus, one_thread
from servax.runtime.processes import end_with_parent

BYTES_WORTH_A_WORKER = 16 * 2**20
"""A worker begins in about 3 s, in which one that is there purifies so much 16-bit sound."""
IN_FLIGHT = 2
"""Jobs handed to each worker at once: the next one waits where the last one ends."""
TRIES = 3
"""Workers of Ray that may be lost over one file; it has failed then."""


def purify_here(
    purifier: str,
    jobs: Sequence[FileJob],
    *,
    overwrite: bool = False,
    workers: int | None = None,
    **how: Any,
) -> Iterator[Outcome]:
    """Yield what became of each job, as it is done; with several workers in any order.

    A script that calls this with several workers must guard its own start with
    ``if __name__ == "__main__":``, as all that begin processes.

    Args:
        purifier: As `cleaner_of` takes it.
        jobs: What becomes what.
        overwrite: Replace targets that are there.
        workers: Processes, of one thread each; default as many as there are CPUs where there is
            work for them (`workers_for`), and no more than there are jobs.
        how: As `cleaner_of` takes it.

    Raises:
        SettingError: `workers` is below 1.
        ServaxError: The purifier cannot be read, or a worker was lost.
    """
    if workers is not None:
        COUNT.check("workers", workers)
    count = min(workers or workers_for(jobs), max(1, len(jobs)))
    cleaner = cleaner_of(purifier, **how)  # refused here, before others begin
    if count > 1:
        yield from _spread(partial(purify_one, purifier, how, overwrite), jobs, count)
        return
    for job in jobs:
        with one_thread():
            outcome = purify_file(cleaner, job, overwrite=overwrite)
        yield outcome


def workers_for(jobs: Sequence[FileJob]) -> int:
    """Return how many workers pay: one for each CPU this process may use, with enough bytes."""
    held = 0
    for job in jobs:
        # A source that is not there is told when its turn comes.
        with suppress(OSError, ValueError):
            held += Path(job.source).stat().st_size
    return min(cpus(), 1 + held // BYTES_WORTH_A_WORKER)


def _spread(
    purify: Callable[[FileJob], Outcome], jobs: Sequence[FileJob], count: int
) -> Iterator[Outcome]:
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_end_quietly)
    waiting = iter(jobs)
    try:
        at_work: set[Future[Outcome]] = {
            pool.submit(purify, job) for job in islice(waiting, IN_FLIGHT * count)
        }
        while at_work:
            done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
            at_work |= {pool.submit(purify, job) for job in islice(waiting, len(done))}
            for each in done:
                yield each.result()
    except BrokenProcessPool:
        raise ServaxError(
            "a worker process was lost (killed, or out of memory); run the same command to go on: "
            "what is done is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_quietly() -> None:
    end_with_parent()
    # Ends at Ctrl-C without a traceback; a file half written is removed on the way.
    signal.signal(signal.SIGINT, lambda number, _: sys.exit(128 + number))


kept_cleaner = cache(cleaner_of)
"""The purifier of this process, where it is one of several."""


def purify_one(purifier: str, how: Mapping[str, Any], overwrite: bool, job: FileJob) -> Outcome:
    """Return what became of a job in a process that may be given more of them.

    Args:
        purifier: As `cleaner_of` takes it.
        how: Likewise.
        overwrite: Replace a target that is there.
        job: What becomes what.
    """
    cleaner = kept_cleaner(purifier, **how)  # before: what is not loaded has no threads to hold
    with one_thread():
        return purify_file(cleaner, job, overwrite=overwrite)


def purify_on_ray(
    purifier: str,
    jobs: Sequence[FileJob],
    *,
    overwrite: bool = False,
    address: str | None = None,
    workers: int | None = None,
    **how: Any,
) -> Iterator[Outcome]:
    """Yield what became of each job, as it is done, in any order.

    Args:
        purifier: As `cleaner_of` takes it; each machine must have it.
        jobs: What becomes what.
        overwrite: Replace targets that are there.
        address: ``HOST:PORT`` of a cluster's head, or ``auto``; none starts Ray here.
        workers: How many, of one CPU each; default as many as there are CPUs, and no more than
            there are jobs.
        how: As `cleaner_of` takes it.

    Raises:
        SettingError: `address` or `workers` is outside its rule.
        ServaxError: Ray is not installed, no cluster is there, or Ray ended the work.
    """
    from servax.stages.ray_session import joined, last_line, ready

    if workers is not None:
        COUNT.check("workers", workers)
    ray = ready(address)
    # What a lost worker had done was not there before.
    there = {job.target for job in jobs if os.path.exists(job.target)}  # noqa: PTH110
    try:
        with joined(ray, address, workers):
            most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            remote = ray.remote(num_cpus=1, max_retries=TRIES - 1)(purify_one)
            task = partial(remote.remote, purifier, how, overwrite)
            for job, done in _in_turn(ray, task, jobs, most):
                yield _outcome(ray, job, done, was_there=job.target in there)
    except ray.exceptions.RayError as error:
        raise ServaxError(
            f"Ray ended the work ({last_line(error)}); run the same command to go on: what is done "
            "is kept."
        ) from error


def _in_turn(
    ray: Any, task: Callable[[FileJob], Any], jobs: Sequence[FileJob], most: int
) -> Iterator[tuple[FileJob, Any]]:
    """Yield each job with its reference once it is done, `most` being at work at any time."""
    waiting, at_work = iter(jobs), dict[Any, FileJob]()
    while True:
        at_work |= {task(job): job for job in islice(waiting, most - len(at_work))}
        if not at_work:
            return
        for done in ray.wait(list(at_work))[0]:
            yield at_work.pop(done), done


def _outcome(ray: Any, job: FileJob, done: Any, *, was_there: bool) -> Outcome:
    try:
        outcome: Outcome = ray.get(done)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        told = f"{job.source}: {TRIES} workers were lost over it, one after another."
        return Outcome(job.source, job.target, "failed", sentence=told)
    if outcome.status == "skipped" and not was_there:
        sound = not outcome.target.endswith(LOGMEL)
        seconds = audio.duration_seconds(outcome.target) if sound else 0.0
        outcome = replace(outcome, status="done", seconds=seconds)
    return outcome
