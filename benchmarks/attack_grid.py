"""The attacks of Table 1 and Figure 2 of the paper, by servax and by torchattacks.

Both attack the same recogniser and score the bare target and the purified one in every cell: clean,
FGSM at 5 ε, PGD at k = 1 ... 30, by an attacker who knows nothing of the purifier. torchattacks,
the fastest of the three libraries (`pgd.py`), is called once per cell, as its interface asks; it
attacks the network as it was trained (``plain``) or the folded copy of servax (``folded``), with
which what remains is the order of work alone. servax takes one gradient for all ε and meets every k
on one trajectory: 31 gradients a batch, not 470. Another batch in each round.

Needs ``pip install --no-deps torchattacks`` (its pinned requirements would take the environment
back).

    python benchmarks/attack_grid.py --model runs/bench-16/model --batch-size 4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from floor import Work, measure_rates, work_of
from harness import Row, Times, floor_told, parser, race, ratio, write
from subject import Subject, Turns, add_subject, subject
from torch import Tensor, nn

from servax.attacks.gradient import class_loss
from servax.attacks.logits import with_gradients
from servax.errors import ServaxError, SettingError
from servax.evaluation import uar
from servax.evaluation.suites import AttackGrid
from servax.perturbation import input_gradient
from servax.purifier import Purifier

TARGET = 8.0
"""How many times faster servax has to be."""
POINTS = 0.5
"""How far the UARs of a cell may lie apart, in points."""

Cell = tuple[str, str, float]
"""Defence, attack, strength."""
Predictions = dict[Cell, list[int]]
"""Of one batch, in every cell."""


class Scored:
    """Predictions of the bare and of the purified target, cell by cell."""

    def __init__(self, target: nn.Module, purifier: nn.Module) -> None:
        self.target, self.purifier = target, purifier
        self.predictions: Predictions = {}

    def add(self, attack: str, strength: float, x: Tensor) -> None:
        """Keep what both say of inputs (B, 1, M, F)."""
        with torch.inference_mode():
            for defence, seen in (("undefended", x), ("purifier", self.purifier(x))):
                predicted = self.target(seen).argmax(dim=1)
                self.predictions[defence, attack, strength] = predicted.tolist()


def by_servax(who: Subject, purifier: nn.Module, grid: AttackGrid, x: Tensor, y: Tensor) -> object:
    """Attack and score one batch as `servax run` does."""
    scored = Scored(who.folded, purifier)
    attacked = with_gradients(who.folded, grid.gradients)
    scored.add("none", 0.0, x)
    for threat in grid.oblivious():
        for strength, moved in threat.moved(attacked, x, y):
            scored.add(threat.name, strength, moved)
    return scored.predictions


def by_torchattacks(
    network: nn.Module, purifier: nn.Module, grid: AttackGrid, x: Tensor, y: Tensor
) -> object:
    """Attack and score one batch with a call of torchattacks for each cell."""
    import torchattacks  # type: ignore[import-untyped]

    scored = Scored(network, purifier)
    scored.add("none", 0.0, x)
    for epsilon in grid.epsilons:
        scored.add("fgsm", epsilon, torchattacks.FGSM(network, eps=epsilon)(x, y))
    for k in range(1, grid.steps + 1):
        attack = torchattacks.PGD(
            network, eps=grid.radius, alpha=grid.step, steps=k, random_start=False
        )
        scored.add("pgd", float(k), attack(x, y))
    return scored.predictions


def uars(who: Subject, took: Times) -> dict[Cell, float]:
    """Return the UAR (%) of each cell over all rounds."""
    labels = np.concatenate([y.numpy() for _, y in who.batches])
    rounds = [cast(Predictions, each) for each in took.results]
    return {
        cell: 100.0 * uar(labels, np.concatenate([each[cell] for each in rounds]))
        for cell in rounds[0]
    }


def cells_told(tables: dict[str, dict[Cell, float]]) -> list[dict[str, object]]:
    """Return the UARs of all contenders cell by cell, for a result file."""
    first = next(iter(tables.values()))
    return [
        {"defence": d, "attack": a, "strength": s}
        | {name: table[d, a, s] for name, table in tables.items()}
        for d, a, s in first
    ]


def purifier_for(who: Subject, name: str) -> Purifier:
    """Return the purifier that is scored, frozen.

    Raises:
        SettingError: It was trained on another front-end or scale than the recogniser.
    """
    purifier = Purifier.from_pretrained(name)
    if not purifier.fits(who.recogniser.scale, who.recogniser.front_end):
        raise SettingError("purifier", name, "one of the model's front-end and scale")
    return purifier.frozen()


def needed(who: Subject, purifier: nn.Module, grid: AttackGrid) -> Work:
    """Return the work of one batch: a gradient for all ε and each k, and scores of every cell."""
    x, y = who.batches[0]
    one, label = x[:1], y[:1]
    gradient = work_of(lambda: input_gradient(class_loss(who.folded, label), one))
    score = (
        work_of(lambda: torch.no_grad()(who.folded)(one))
        .times(2)
        .plus(work_of(lambda: torch.no_grad()(purifier)(one)))
    )
    cells = 1 + len(grid.epsilons) + grid.steps
    return gradient.times(1 + grid.steps).plus(score.times(cells)).times(len(x))


def main() -> int:
    """Run the benchmark; 0 when the target is met."""
    given = arguments()
    torch.set_num_threads(given.threads)
    grid = AttackGrid(steps=given.steps, adaptive_steps=given.steps)
    who = subject(given, batches=given.rounds)
    purifier = purifier_for(who, given.purifier)
    runs: dict[str, Callable[[Tensor, Tensor], object]] = {
        "servax": lambda x, y: by_servax(who, purifier, grid, x, y),
        "servax bfloat16": lambda x, y: by_servax(
            who, purifier, replace(grid, gradients="bfloat16"), x, y
        ),
    }
    for name in given.against:
        network = {"plain": who.plain, "folded": who.folded}[name]
        runs[f"torchattacks {name}"] = lambda x, y, n=network: by_torchattacks(  # type: ignore[misc]
            n, purifier, grid, x, y
        )
    x, y = who.batches[0]
    for network in (who.plain, who.folded):  # a call of everything would take minutes
        by_servax(replace(who, folded=network), purifier, replace(grid, steps=2), x, y)
    contenders = {name: Turns(run, who.batches, warm_up=0) for name, run in runs.items()}
    times = race(contenders, rounds=given.rounds, warm_up=0)
    rates = measure_rates()
    tables = {name: uars(who, took) for name, took in times.items()}
    rows = told(
        given,
        who,
        times,
        tables,
        floor_told(needed(who, purifier, grid), rates, times["servax"].seconds.median),
    )
    write(
        f"attack_grid-{who.recogniser.network.settings.width}",
        rows,
        times=times,
        rates=[rates],
        packages=("torchattacks",),
        folder=given.results,
        pgd={"step": grid.step, "radius": grid.radius, "steps": grid.steps},
        purifier=str(given.purifier),
        clips=len(who.clips),
        clean_uar=who.clean_uar(),
        cells=cells_told(tables),
    )
    return 0 if rows[0].met else 1


def told(
    given: argparse.Namespace,
    who: Subject,
    times: dict[str, Times],
    tables: dict[str, dict[Cell, float]],
    floor: str,
) -> list[Row]:
    """Return the rows of float32 and of the fast mode."""
    rival = f"torchattacks {given.against[0]}"
    rows = []
    for name in ("servax", "servax bfloat16"):
        exact = name == "servax"
        found = ratio(times[rival], times[name])
        apart = max(abs(each - tables[rival][cell]) for cell, each in tables[name].items())
        beside = "".join(
            f"; given our folded network {ratio(took, times[name]).of_medians:.1f} ×"
            for other, took in times.items()
            if other == "torchattacks folded" != rival
        )
        rows.append(
            Row(
                what=f"Table 1 and Figure 2 (FGSM at {len(AttackGrid().epsilons)} ε, PGD k = 1 to "
                f"{given.steps}, bare and purified), VGG-16 of width "
                f"{who.recogniser.network.settings.width}, batch {given.batch_size}"
                + ("" if exact else ", fast mode (bfloat16 gradients)"),
                against=f"{rival}, one call for each cell",
                target=f"≥ {TARGET:g} ×, UARs within {POINTS} points" if exact else "—",
                measured=f"{found}; UARs of {len(tables[name])} cells at most {apart:.2f} points "
                f"apart{beside}",
                met=(found.of_medians >= TARGET and apart <= POINTS) if exact else None,
                floor=floor if exact else "—",
            )
        )
    return rows


def add_grid(made: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Add the options that say who is attacked, how far, and who purifies."""
    add_subject(made, batch_size=batch_size)
    made.add_argument(
        "--purifier", default="ssad-plus-ravdess", help="folder or name of a purifier"
    )
    made.add_argument("--steps", type=int, default=30, help="largest k of PGD")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("Table 1 and Figure 2: servax and torchattacks.")
    add_grid(made, batch_size=4)
    made.add_argument(
        "--against",
        nargs="+",
        choices=("plain", "folded"),
        default=["plain", "folded"],
        help="which network torchattacks is given; the first counts",
    )
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"attack_grid: {error}")
