"""Purifies many files through Ray Data, on this machine or on a cluster.

Ray Data cuts the orders into batches, keeps one model in each worker, restarts a lost worker and
gives its batch to another. What travels is text; files are read and written where the work is done,
so every machine must see them under the same paths.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from servax import audio
from servax.bulk.files import purify_file
from servax.bulk.orders import LOGMEL, Order, Outcome
from servax.errors import ServaxError, SettingError
from servax.files import this_process, unfinished_name
from servax.purifier import Purifier
from servax.stages.ray_session import check_reachable, joined, last_line, load_ray

BATCH = 8
"""Files that a worker takes at once."""
TRIES = 3
"""Workers that may be lost over one file; it has failed then. Ray begins workers again for ever."""


class Worker:
    """Holds one model and purifies batches of files.

    Args:
        purifier: Folder, name of a packaged one, or hub id.
        overwrite: Replace targets that are there.
        run: `this_process` of the process that ordered the work.
    """

    def __init__(self, purifier: str, overwrite: bool, run: str) -> None:
        torch.set_num_threads(1)  # Ray gives each worker one CPU
        self.purifier = Purifier.from_pretrained(purifier).frozen()
        self.overwrite = overwrite
        self.run = run

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Return the outcomes of a batch of orders, each as JSON."""
        outcomes = [self._tried(Order(**json.loads(text))) for text in batch["order"]]
        return {"outcome": [json.dumps(asdict(each)) for each in outcomes]}

    def _tried(self, order: Order) -> Outcome:
        target = Path(order.target)
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
                told = f"{order.source}: {lost} workers were lost over it, one after another."
                return Outcome(order.source, order.target, "failed", sentence=told)
            return purify_file(self.purifier, order, overwrite=self.overwrite)
        finally:
            with suppress(OSError, ValueError):
                mark.unlink(missing_ok=True)


def purify_on_ray(
    purifier: str,
    orders: Sequence[Order],
    *,
    overwrite: bool = False,
    address: str | None = None,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Yield what became of each order, as it is done, in any order.

    Args:
        purifier: Folder, name of a packaged one, or hub id; each machine must have it.
        orders: What becomes what.
        overwrite: Replace targets that are there.
        address: ``HOST:PORT`` of a cluster's head, or ``auto``; none starts Ray here.
        workers: How many, of one CPU each; default as many as there are CPUs, and no more than
            there are batches.

    Raises:
        SettingError: `address` or `workers` is outside its rule.
        ServaxError: Ray is not installed, no cluster is there, or Ray ended the work.
    """
    if workers is not None and workers < 1:
        raise SettingError("workers", workers, "a whole number of at least 1")
    ray = load_ray()
    if address is not None and not ray.is_initialized():
        check_reachable(address, ray)
    with joined(ray, address, workers):
        most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield from _outcomes(ray, purifier, orders, overwrite, most)


def _outcomes(
    ray: Any, purifier: str, orders: Sequence[Order], overwrite: bool, workers: int
) -> Iterator[Outcome]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    size = max(1, min(BATCH, -(-len(orders) // workers)))
    count = min(workers, -(-len(orders) // size))
    # As JSON, in which a name that is not UTF-8 travels too.
    rows = [{"order": json.dumps(asdict(order))} for order in orders]
    # One block a batch: Ray Data never joins small blocks of several workers by itself.
    data = ray.data.from_items(rows, override_num_blocks=-(-len(orders) // size))
    done = data.map_batches(
        Worker,
        fn_constructor_args=(purifier, overwrite, this_process()),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=1,
    )
    there = {order.target for order in orders if os.path.exists(order.target)}  # noqa: PTH110
    try:
        for row in done.iter_rows():
            yield _seen(Outcome(**json.loads(row["outcome"])), there)
    except ray.exceptions.RayError as error:
        raise ServaxError(
            f"Ray ended the work ({last_line(error)}); run the same command to go on: what is done "
            "is kept."
        ) from error


def _seen(outcome: Outcome, there: Container[str]) -> Outcome:
    """Return an outcome as this run sees it: what a lost worker had done was not there before."""
    if outcome.status != "skipped" or outcome.target in there:
        return outcome
    sound = not outcome.target.endswith(LOGMEL)
    seconds = audio.duration_seconds(outcome.target) if sound else 0.0
    return replace(outcome, status="done", seconds=seconds)
