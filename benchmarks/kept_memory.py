"""What it is worth to keep freed memory in the process (`servax.cli`), as the commands do.

Work of full size runs in processes that hand freed memory back, as a library's host does by
default, and in others that keep it, by turns: a gradient of the folded VGG-16 with respect to its
input, as every attack takes, and a step of the recogniser's own training.

    python benchmarks/kept_memory.py --model runs/bench-64/model
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import Row, Spread, Times, parser, race, ratio, write
from subject import Subject, add_subject, subject
from torch import nn

from servax.attacks.gradient import class_loss
from servax.cli import keep_freed_memory
from servax.errors import ServaxError
from servax.perturbation import input_gradient

WAYS = ("handed back", "kept")
CALLS = 3
"""Of each work in a process, after one that is not timed."""


def main() -> int:
    """Time both ways."""
    given = arguments()
    if given.way:
        print(json.dumps(child(given)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            found[way].append(_child_of(way))
            print(f"round {number + 1}/{given.rounds}: {way} {found[way][-1]}", file=sys.stderr)
    rows, times = [], {}
    for work in ("a gradient", "a training step"):
        took = {
            way: Times(
                Spread(tuple(each[work]["seconds"] for each in found[way])),
                Spread(tuple(each[work]["cpu_seconds"] for each in found[way])),
            )
            for way in WAYS
        }
        times |= {f"{work}, {way}": each for way, each in took.items()}
        gain = ratio(took["handed back"], took["kept"])
        rows.append(
            Row(
                what=f"freed memory kept: {work} of VGG-16 of width {found['kept'][0]['width']}, "
                f"batch {given.batch_size} ({took['kept'].seconds.median:.2f} s)",
                against="the same, freed memory handed back to the system",
                target="—",
                measured=str(gain),
                met=None,
            )
        )
    torch.set_num_threads(given.threads)
    write(
        f"kept_memory-{found['kept'][0]['width']}",
        rows,
        times=times,
        folder=given.results,
        peak_mib={way: [each["peak_mib"] for each in found[way]] for way in WAYS},
        faults={way: [each["faults"] for each in found[way]] for way in WAYS},
    )
    return 0


def _child_of(way: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *sys.argv, "--way", way], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def child(given: argparse.Namespace) -> dict[str, Any]:
    """Return the median seconds of each work, page faults and the peak of memory, of a process."""
    torch.set_num_threads(given.threads)
    if given.way == "kept" and not keep_freed_memory():
        raise SystemExit("kept_memory: this C library or a variable of malloc does not let it")
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
    made = parser("Freed memory kept, and handed back.")
    add_subject(made, batch_size=16)
    made.add_argument("--way", choices=WAYS, default="", help="of the process itself, for rounds")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"kept_memory: {error}")
