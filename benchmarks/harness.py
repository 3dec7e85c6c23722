"""What all benchmarks share: contenders timed side by side, and one form of result.

Contenders take turns in one process, once each round, and the order is turned round from round to
round, so that other work on the machine meets all alike. Each is run before the clock starts.
What is told is the median of the rounds with the lowest and the highest, on the clock and of the
processor, and two ratios: of the medians, and the median of the ratios within a round.

A benchmark writes `results/<name>.json`: machine, versions, commit, command, measured rates, all
times, and the rows it adds to the table of `README.md` (written by `table.py`).

    contenders = {"servax": ours, "torchattacks": theirs}       # functions without arguments
    times = race(contenders, rounds=given.rounds)
    times["servax"].seconds.median, ratio(times["torchattacks"], times["servax"]).of_medians
    write("pgd-64", rows=[Row(...)], times=times, rates=rates, threads=given.threads)
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from floor import Rates, Work

from servax.experiments.provenance import provenance

RESULTS = Path(__file__).parent / "results"
"""Where result files are kept."""
ROUNDS = 5
"""How often each contender is timed, unless told otherwise."""

Contender = Callable[[], object]
"""Does the work once; what it returns is kept for checks that the results agree."""


@dataclass(frozen=True)
class Spread:
    """Seconds of all rounds."""

    all: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.all)

    def told(self) -> dict[str, Any]:
        """Return median, lowest, highest and all, for a result file."""
        return {
            "median": self.median,
            "min": min(self.all),
            "max": max(self.all),
            "all": list(self.all),
        }


@dataclass(frozen=True)
class Times:
    """What one contender took."""

    seconds: Spread
    """On the clock."""
    cpu_seconds: Spread
    """Of this process, all of its threads."""
    results: tuple[object, ...] = ()
    """What the contender returned in each round."""

    def told(self) -> dict[str, Any]:
        """Return the times for a result file."""
        return {"seconds": self.seconds.told(), "cpu_seconds": self.cpu_seconds.told()}


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another."""

    of_medians: float
    """Its median divided by the other's."""
    paired: float
    """The median of its time divided by the other's in the same round."""
    lowest: float
    """Of the ratios within a round."""
    highest: float
    """Of the ratios within a round."""

    def __str__(self) -> str:
        return f"{self.of_medians:.2f} × ({self.lowest:.2f} to {self.highest:.2f})"


def race(
    contenders: Mapping[str, Contender], *, rounds: int = ROUNDS, warm_up: int = 1
) -> dict[str, Times]:
    """Return what each contender took, timed in turns; progress goes to stderr.

    Args:
        contenders: By name, in the order of the first round.
        rounds: How often each is timed.
        warm_up: How often each is run before.
    """
    for run in list(contenders.values()) * warm_up:
        run()
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    busy: dict[str, list[float]] = {name: [] for name in contenders}
    results: dict[str, list[object]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders)
        for name in order if number % 2 == 0 else order[::-1]:
            gc.collect()
            begin, processor = time.perf_counter(), time.process_time()
            result = contenders[name]()
            clock[name].append(time.perf_counter() - begin)
            busy[name].append(time.process_time() - processor)
            results[name].append(result)
        told = ", ".join(f"{name} {seconds[-1]:.3g} s" for name, seconds in clock.items())
        print(f"round {number + 1}/{rounds}: {told}", file=sys.stderr, flush=True)
    return {
        name: Times(Spread(tuple(clock[name])), Spread(tuple(busy[name])), tuple(results[name]))
        for name in contenders
    }


def ratio(slow: Times, quick: Times) -> Ratio:
    """Return how many times as long `slow` takes, by the clock."""
    within = [a / b for a, b in zip(slow.seconds.all, quick.seconds.all, strict=True)]
    return Ratio(
        of_medians=slow.seconds.median / quick.seconds.median,
        paired=statistics.median(within),
        lowest=min(within),
        highest=max(within),
    )


def fastest(times: Mapping[str, Times]) -> str:
    """Return the name of the contender with the lowest median."""
    return min(times, key=lambda name: times[name].seconds.median)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table in `README.md`."""

    what: str
    """What is computed, with its size."""
    against: str
    """Beside whom; the ratio is against this one."""
    target: str
    """What was asked for."""
    measured: str
    """What was found, such as ``1.52 × (1.48 to 1.60)``."""
    met: bool | None
    """Whether the target is met; None where there is none."""
    floor: str = "—"
    """The floor and the share of it that was reached (`floor_told`)."""
    gpu: str = "not measured"
    """The same on a GPU."""


def floor_told(work: Work, rates: Rates, seconds: float) -> str:
    """Return the floor beside what was measured, such as ``3.10 s of 4.02 s, 77 %``."""
    floor = work.floor(rates)
    return f"{floor:.3g} s of {seconds:.3g} s, {100 * floor / seconds:.0f} %"


def write(
    name: str,
    rows: Sequence[Row],
    *,
    times: Mapping[str, Times] | None = None,
    rates: Sequence[Rates] = (),
    packages: Sequence[str] = (),
    folder: Path = RESULTS,
    **figures: Any,
) -> Path:
    """Write `<folder>/<name>.json` and print its rows; return the file.

    Args:
        name: Of the benchmark, the file's stem; the same name overwrites.
        rows: What it adds to the table.
        times: What the contenders took.
        rates: The measured rates of the machine.
        packages: Distributions whose versions count beside torch and NumPy.
        folder: Where to.
        **figures: Whatever else was found (settings, accuracies), as JSON can hold it.
    """
    origin = dict(provenance(shlex.join(["python", *sys.argv])))
    origin["versions"] = {**origin["versions"], **{each: version(each) for each in packages}}
    found = {
        "benchmark": name,
        **origin,
        "threads": torch.get_num_threads(),
        "rates": [each.told() for each in rates],
        "rows": [asdict(row) for row in rows],
        "times": {each: took.told() for each, took in (times or {}).items()},
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(found)
    print(f"written: {path}")
    return path


def show(found: Mapping[str, Any]) -> None:
    """Print machine, rates, times and rows of a result."""
    print(f"{found['machine']}; commit {found['commit']}")
    print(", ".join(f"{package} {number}" for package, number in found["versions"].items()))
    for each in found["rates"]:
        print(
            f"{each['dtype']}, {each['threads']} threads: {each['product_gflops']:.0f} GFLOP/s in "
            f"a matrix product, {each['convolution_gflops']:.0f} in a convolution; "
            f"{each['gigabytes']:.1f} GB/s"
        )
    for name, took in found["times"].items():
        clock, busy = took["seconds"], took["cpu_seconds"]
        print(
            f"{name:>34}: {clock['median']:9.4g} s ({clock['min']:.4g} to {clock['max']:.4g}), "
            f"processor {busy['median']:.4g} s"
        )
    for row in found["rows"]:
        met = {True: "met", False: "missed", None: ""}[row["met"]]
        print(f"{row['what']} | {row['against']} | {row['target']} | {row['measured']} | {met}")
        print(f"    floor: {row['floor']}")


@dataclass(frozen=True)
class Defaults:
    """What a benchmark's command line begins with."""

    rounds: int = ROUNDS
    """Rounds of timing."""
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads of torch."""


def parser(description: str, defaults: Defaults | None = None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks take: ``--rounds``, ``--threads``, ``--results``."""
    given = defaults or Defaults()
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=given.rounds, help="how often each is timed")
    made.add_argument("--threads", type=int, default=given.threads, help="threads of torch")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    return made
