"""AutoAttack on VGG-16, by servax and by torchattacks: the same schedule, steps and queries.

Both run Auto-PGD on cross-entropy, targeted Auto-PGD, a minimum-norm attack (servax FMN,
torchattacks targeted FAB) and Square, each on what the attacks before left standing. Steps and
queries are given below, since torchattacks' own AutoAttack takes 10 steps where the reference takes
100: its parts are put together by its `MultiAttack`, as its AutoAttack does. It attacks the network
as it was trained (``plain``) and the folded copy of servax (``folded``). The accuracy that is left,
judged in float32 for all, must be no higher than torchattacks'.

    python benchmarks/auto_attack.py --model runs/bench-16/model
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import cast

import torch
from floor import measure_rates, work_of
from harness import Row, floor_told, parser, race, ratio, write
from subject import Subject, Turns, add_subject, subject
from torch import Tensor, nn

from servax.attacks import AutoAttack, Counting, FastGradients
from servax.attacks.gradient import class_loss
from servax.errors import ServaxError
from servax.perturbation import input_gradient

TARGET = 1.5
"""How many times faster servax has to be."""

Run = Callable[[Tensor, Tensor], Tensor]
"""From inputs (B, 1, M, F) and classes (B,) to adversarial inputs."""


def by_servax(network: nn.Module, given: argparse.Namespace) -> Run:
    """Return AutoAttack of servax."""
    attack = AutoAttack(epsilon=given.radius, steps=given.steps, queries=given.queries)

    def run(x: Tensor, y: Tensor) -> Tensor:
        return attack(network, x, y, generator=torch.Generator().manual_seed(given.seed))

    return run


def by_torchattacks(network: nn.Module, classes: int, given: argparse.Namespace) -> Run:
    """Return the standard schedule of torchattacks, with as many steps and queries."""
    import torchattacks  # type: ignore[import-untyped]

    common = {"eps": given.radius, "norm": "Linf", "seed": given.seed, "n_restarts": 1}
    attack = torchattacks.MultiAttack(
        [
            torchattacks.APGD(network, steps=given.steps, loss="ce", **common),
            torchattacks.APGDT(network, steps=given.steps, n_classes=classes, **common),
            torchattacks.FAB(
                network, steps=given.steps, multi_targeted=True, n_classes=classes, **common
            ),
            torchattacks.Square(network, n_queries=given.queries, **common),
        ]
    )
    return lambda x, y: cast(Tensor, attack(x, y))


def contenders(who: Subject, given: argparse.Namespace) -> dict[str, Run]:
    """Return everyone who attacks, servax first."""
    classes = who.recogniser.network.settings.classes
    return {
        "servax": by_servax(who.folded, given),
        "servax bfloat16": by_servax(FastGradients(who.folded), given),
        "torchattacks plain": by_torchattacks(who.plain, classes, given),
        "torchattacks folded": by_torchattacks(who.folded, classes, given),
    }


def standing(who: Subject, found: tuple[object, ...]) -> float:
    """Return the accuracy (%) that is left."""
    right = total = 0
    for moved, (_, y) in zip(found, who.batches, strict=False):
        with torch.inference_mode():
            right += int((who.plain(cast(Tensor, moved)).argmax(dim=1) == y).sum())
        total += len(y)
    return 100.0 * right / total


def main() -> int:
    """Run the benchmark; 0 when the target is met."""
    given = arguments()
    torch.set_num_threads(given.threads)
    who = subject(given, batches=given.rounds)
    runs = contenders(who, given)
    times = race({name: Turns(run, who.batches) for name, run in runs.items()}, rounds=given.rounds)
    left = {name: standing(who, took.results) for name, took in times.items()}
    rival = "torchattacks plain"
    rates = measure_rates()
    counted = Counting(who.folded)
    for x, y in who.batches:
        by_servax(counted, given)(x, y)
    x, y = who.batches[0]
    back = work_of(lambda: input_gradient(class_loss(who.folded, y[:1]), x[:1]))
    forth = work_of(lambda: torch.no_grad()(who.folded)(x[:1]))
    # Of one round; a row that is asked for a gradient is counted forwards too.
    asked = counted.forward_rows - counted.backward_rows
    needed = back.times(counted.backward_rows).plus(forth.times(asked)).times(1 / given.rounds)
    width = who.recogniser.network.settings.width
    rows = []
    for name in ("servax", "servax bfloat16"):
        found = ratio(times[rival], times[name])
        beside = ratio(times["torchattacks folded"], times[name]).of_medians
        mode = ", fast mode (bfloat16 gradients)" if name != "servax" else ""
        rows.append(
            Row(
                what=f"AutoAttack ({given.steps} steps, {given.queries} queries, radius "
                f"{given.radius:g}), VGG-16 of width {width}, batch {given.batch_size}{mode}",
                against="torchattacks, the same schedule",
                target=f"≥ {TARGET:g} ×, no more accuracy left" if name == "servax" else "—",
                measured=f"{found}; {left[name]:.1f} % and {left[rival]:.1f} % stand; given our "
                f"folded network {beside:.2f} ×",
                met=found.of_medians >= TARGET and left[name] <= left[rival]
                if name == "servax"
                else None,
                floor=floor_told(needed, rates, times[name].seconds.median)
                if name == "servax"
                else "—",
            )
        )
    write(
        f"auto_attack-{width}",
        rows,
        times=times,
        rates=[rates],
        packages=("torchattacks", "foolbox"),
        folder=given.results,
        clips=len(who.clips),
        clean_uar=who.clean_uar(),
        accuracy_left=left,
        servax_rows_per_clip={
            "forward": counted.forward_rows / len(who.clips),
            "backward": counted.backward_rows / len(who.clips),
        },
    )
    return 0 if rows[0].met else 1


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("AutoAttack on VGG-16: servax and torchattacks.")
    add_subject(made, batch_size=16)
    add = made.add_argument
    add("--steps", type=int, default=20, help="steps of each gradient attack, per target class")
    add("--queries", type=int, default=200, help="queries of Square")
    add("--radius", type=float, default=0.0005, help="radius of the ball, on the [0, 1] scale")
    add("--seed", type=int, default=0, help="of all random numbers")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"auto_attack: {error}")
