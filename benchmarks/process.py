"""What the command line's settings of its own process (`servax.cli`) are worth.

Work of an attack and of training runs in processes as a library's host has them, and in others as
the commands set them, by turns: a gradient of the folded VGG-16 with respect to its input, and a
step of the recogniser's own training. Asked are freed memory that is kept, and threads that sleep
while they wait for each other: on an idle machine, and beside a process that holds one core.

    python benchmarks/process.py memory --model runs/bench-64/model
    python benchmarks/process.py waiting --model runs/bench-16/model
    python benchmarks/process.py neighbour --model runs/bench-16/model
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from clips import environment
from harness import Row, Spread, Times, parser, race, ratio, write
from subject import Subject, add_subject, subject
from torch import nn

from servax.attacks.gradient import class_loss
from servax.errors import ServaxError
from servax.perturbation import input_gradient
from servax.runtime.processes import keep_freed_memory

CALLS = 3
"""Of each work in a process, after one that is not timed."""
ASLEEP = "asleep"
KEPT = "kept"


@dataclass(frozen=True)
class Question:
    """Two ways of a process: as a host has it, as the commands set it."""

    ways: tuple[str, str]
    what: str
    against: str
    neighbour: bool = False


QUESTIONS = {
    "memory": Question(
        ("handed back", KEPT),
        "freed memory kept",
        "the same, freed memory handed back to the system",
    ),
    "waiting": Question(
        ("spinning", ASLEEP),
        "threads asleep while they wait, on an idle machine",
        "the same, threads that spin",
    ),
    "neighbour": Question(
        ("spinning", ASLEEP),
        "threads asleep while they wait, beside a process that holds one core",
        "the same, threads that spin",
        neighbour=True,
    ),
}


def main() -> int:
    """Time both ways."""
    given = arguments()
    if given.way:
        print(json.dumps(child(given)))
        return 0
    asked = QUESTIONS[given.question]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in asked.ways}
    with neighbour() if asked.neighbour else contextlib.nullcontext():
        for number in range(given.rounds):
            for way in asked.ways if number % 2 == 0 else asked.ways[::-1]:
                found[way].append(_child_of(way))
                print(f"round {number + 1}/{given.rounds}: {way} {found[way][-1]}", file=sys.stderr)
    before, after = asked.ways
    width = found[after][0]["width"]
    rows, times = [], {}
    for work in ("a gradient", "a training step"):
        took = {
            way: Times(
                Spread(tuple(each[work]["seconds"] for each in found[way])),
                Spread(tuple(each[work]["cpu_seconds"] for each in found[way])),
            )
            for way in asked.ways
        }
        times |= {f"{work}, {way}": each for way, each in took.items()}
        rows.append(
            Row(
                what=f"{asked.what}: {work} of VGG-16 of width {width}, "
                f"batch {given.batch_size} ({took[after].seconds.median:.3g} s)",
                against=asked.against,
                target="—",
                measured=str(ratio(took[before], took[after])),
                met=None,
            )
        )
    torch.set_num_threads(given.threads)
    write(
        f"process-{given.question}-{width}",
        rows,
        times=times,
        folder=given.results,
        peak_mib={way: [each["peak_mib"] for each in found[way]] for way in asked.ways},
        faults={way: [each["faults"] for each in found[way]] for way in asked.ways},
    )
    return 0


@contextlib.contextmanager
def neighbour() -> Any:
    """Hold one core with a process of the same priority."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def _child_of(way: str) -> dict[str, Any]:
    variables = environment()
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        variables.pop(name, None)
    if way == ASLEEP:  # as servax.cli.sleep_while_waiting sets it
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
    done = subprocess.run(
        [sys.executable, *sys.argv, "--way", way],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    if done.returncode:
        sys.exit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def child(given: argparse.Namespace) -> dict[str, Any]:
    """Return the median seconds of each work, page faults and the peak of memory, of a process."""
    torch.set_num_threads(given.threads)
    if given.way == KEPT and not keep_freed_memory():
        raise SystemExit("process: this C library or a variable of malloc does not let it")
    who = subject(given, batches=1)
    x, y = who.batches[0]
    works: dict[str, Callable[[], object]] = {
        "a gradient": lambda: input_gradient(class_loss(who.folded, y), x),
        "a training step": training_step(who),
    }
    told: dict[str, Any] = {"width": who.recogniser.network.settings.width}
    for name, run in works.items():
        took = race({name: run}, rounds=CALLS)[name]
        told[name] = {"seconds": took.seconds.median, "cpu_seconds": took.cpu_seconds.median}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return told | {"peak_mib": used.ru_maxrss / 1024, "faults": used.ru_minflt}


def training_step(who: Subject) -> Callable[[], object]:
    """Return what moves a copy of the recogniser by one step of Adam."""
    x, y = who.batches[0]
    network = copy.deepcopy(who.plain).train().requires_grad_(True)
    optimiser = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()

    return step


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("What the command line's settings of its process are worth.")
    made.add_argument("question", choices=tuple(QUESTIONS), help="which setting")
    add_subject(made, batch_size=16)
    made.add_argument("--way", default="", help="of the process itself, for rounds")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"process: {error}")
