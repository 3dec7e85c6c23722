"""Purifies many files: on the CPUs of this machine, or by Ray Data on many machines.

A clip is too short to be shared out among threads, so each process computes on one thread and the
processes take files by turns: the bytes are the same, however many there are. Processes begin
afresh (``spawn``): a copy of one that computes with threads may hang.

Ray Data cuts the jobs into batches, keeps one model in each worker, restarts a lost worker and
gives its batch to another. What travels is text; files are read and written where the work is done,
so every machine must see them under the same paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from servax import audio
from servax.errors import ServaxError, SettingError
from servax.files import this_process, unfinished_name
from servax.purifier.files import carry_out, cleaner_of, purify_file, work_of
from servax.purifier.plans import LOGMEL, FileJob, Outcome
from servax.runtime.host import cpus, one_thread
from servax.runtime.stream import SoundCleaner

Load = Callable[[], SoundCleaner]
"""Returns what purifies; it travels to other processes."""
BYTES_WORTH_A_WORKER = 16 * 2**20
"""A worker begins in about 3 s, in which one that is there purifies so much 16-bit sound."""
IN_FLIGHT = 2
"""Jobs handed to each worker at once: the next one waits where the last one ends."""
BATCH = 8
"""Files that a worker of Ray takes at once."""
TRIES = 3
"""Workers that may be lost over one file; it has failed then. Ray begins workers again for ever."""


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
    _check_workers(workers)
    count = min(workers or workers_for(jobs), max(1, len(jobs)))
    load = partial(cleaner_of, purifier, **how)
    cleaner = load()  # refused here, before others begin
    if count > 1:
        yield from _spread(load, jobs, overwrite, count)
        return
    for job in jobs:
        with one_thread():
            outcome = carry_out(job, work_of(cleaner, job), overwrite=overwrite)
        yield outcome


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise SettingError("workers", workers, "a whole number of at least 1")


def workers_for(jobs: Sequence[FileJob]) -> int:
    """Return how many workers pay: one for each CPU this process may use, with enough bytes."""
    held = 0
    for job in jobs:
        # A source that is not there is told when its turn comes.
        with suppress(OSError, ValueError):
            held += Path(job.source).stat().st_size
    return min(cpus(), 1 + held // BYTES_WORTH_A_WORKER)


def _spread(load: Load, jobs: Sequence[FileJob], overwrite: bool, count: int) -> Iterator[Outcome]:
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_begin, initargs=(load, overwrite)
    )
    waiting = iter(jobs)
    try:
        at_work: set[Future[Outcome]] = {
            pool.submit(_purify, job) for job in islice(waiting, IN_FLIGHT * count)
        }
        while at_work:
            done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
            at_work |= {pool.submit(_purify, job) for job in islice(waiting, len(done))}
            for each in done:
                yield each.result()
    except BrokenProcessPool:
        raise ServaxError(
            "a worker process was lost (killed, or out of memory); run the same command to go on: "
            "what is done is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


AT_WORK: list[Callable[[FileJob], Outcome]] = []
"""What this process does with a job, where it is one of several."""


def _begin(load: Load, overwrite: bool) -> None:
    # Ends at Ctrl-C without a traceback; a file half written is removed on the way.
    signal.signal(signal.SIGINT, lambda number, _: sys.exit(128 + number))
    AT_WORK.append(partial(_alone, load(), overwrite))


def _purify(job: FileJob) -> Outcome:
    return AT_WORK[0](job)


def _alone(cleaner: SoundCleaner, overwrite: bool, job: FileJob) -> Outcome:
    with one_thread():
        return purify_file(cleaner, job, overwrite=overwrite)


class RayWorker:
    """Purifies batches of files that travel as text.

    Args:
        load: Returns what purifies.
        overwrite: Replace targets that are there.
        run: `this_process` of the process that gave out the work.
    """

    def __init__(self, load: Load, overwrite: bool, run: str) -> None:
        self.purifier, self.overwrite, self.run = load(), overwrite, run

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Return the outcomes of a batch of jobs, each as JSON."""
        outcomes = [self._tried(FileJob(**json.loads(text))) for text in batch["job"]]
        return {"outcome": [json.dumps(asdict(each)) for each in outcomes]}

    def _tried(self, job: FileJob) -> Outcome:
        target = Path(job.target)
        what = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
        mark = target.with_name(unfinished_name(self.run, what))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lost = int(mark.read_text()) if mark.exists() else 0
            if lost < TRIES:
                mark.write_text(str(lost + 1))
        except (OSError, ValueError):
            lost = 0  # what cannot be marked cannot be written: that is told below
        try:
            if lost >= TRIES:
                told = f"{job.source}: {lost} workers were lost over it, one after another."
                return Outcome(job.source, job.target, "failed", sentence=told)
            return _alone(self.purifier, self.overwrite, job)
        finally:
            with suppress(OSError, ValueError):
                mark.unlink(missing_ok=True)


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
            there are batches.
        how: As `cleaner_of` takes it.

    Raises:
        SettingError: `address` or `workers` is outside its rule.
        ServaxError: Ray is not installed, no cluster is there, or Ray ended the work.
    """
    from servax.stages.ray_session import joined, last_line, ready

    _check_workers(workers)
    ray = ready(address)
    # What a lost worker had done was not there before.
    there = {job.target for job in jobs if os.path.exists(job.target)}  # noqa: PTH110
    try:
        with joined(ray, address, workers):
            most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            load = partial(cleaner_of, purifier, **how)
            for row in _purified_data(ray, load, jobs, overwrite, most).iter_rows():
                outcome = Outcome(**json.loads(row["outcome"]))
                if outcome.status == "skipped" and outcome.target not in there:
                    sound = not outcome.target.endswith(LOGMEL)
                    seconds = audio.duration_seconds(outcome.target) if sound else 0.0
                    outcome = replace(outcome, status="done", seconds=seconds)
                yield outcome
    except ray.exceptions.RayError as error:
        raise ServaxError(
            f"Ray ended the work ({last_line(error)}); run the same command to go on: what is done "
            "is kept."
        ) from error


def _purified_data(
    ray: Any, load: Load, jobs: Sequence[FileJob], overwrite: bool, workers: int
) -> Any:
    """Return the dataset of outcomes, each as JSON, that Ray computes as it is read."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    size = max(1, min(BATCH, -(-len(jobs) // workers)))
    batches = -(-len(jobs) // size)
    # As JSON, in which a name that is not UTF-8 travels too.
    rows = [{"job": json.dumps(asdict(job))} for job in jobs]
    # One block a batch: Ray Data never joins small blocks of several workers by itself.
    return ray.data.from_items(rows, override_num_blocks=batches).map_batches(
        RayWorker,
        fn_constructor_args=(load, overwrite, this_process()),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=min(workers, batches)),
        num_cpus=1,
    )
