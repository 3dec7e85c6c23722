"""How far the UARs of Table 1 and Figure 2 lie apart between float32 roundings of one network.

servax attacks a folded copy of a recogniser (`servax.models.frozen`). Folding keeps the function
and changes the rounding, so near-zero gradients change sign and a walk of PGD ends elsewhere. What
that does to the UARs of all 72 cells is told on every clip of the held-out group, beside what
another order of memory (channels last) does to the recogniser as it was trained, which any user of
any library may meet. Attacks are those of servax throughout: given one network, those of
torchattacks end in the same predictions (`attack_grid.py`).

    python benchmarks/grid_agreement.py --model runs/bench-16/model
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace

import numpy as np
import torch
from attack_grid import (
    POINTS,
    Cell,
    Predictions,
    add_grid,
    by_servax,
    cells_told,
    purifier_for,
)
from harness import Row, parser, write
from subject import subject
from torch import nn

from servax.corpora import load
from servax.errors import ServaxError
from servax.evaluation import uar
from servax.evaluation.suites import AttackGrid

Apart = dict[Cell, float]
"""Of each cell, UAR (%) less that of the recogniser as it was trained, in points."""


def main() -> int:
    """Attack with each rounding; 0 when no UAR of the folded copy lies further off than allowed."""
    given = arguments()
    torch.set_num_threads(given.threads)
    grid = AttackGrid(steps=given.steps, adaptive_steps=given.steps)
    count = given.clips or _all_clips(given)
    who = subject(given, batches=-(-count // given.batch_size))
    purifier = purifier_for(who, given.purifier)
    networks: dict[str, nn.Module] = {
        "trained": who.plain,
        "channels last": copy.deepcopy(who.plain).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        "folded": who.folded,
    }
    predictions: dict[str, Predictions] = {name: {} for name in networks}
    for number, (x, y) in enumerate(who.batches, start=1):
        for name, network in networks.items():
            found = by_servax(replace(who, folded=network), purifier, grid, x, y)
            for cell, predicted in found.items():
                predictions[name].setdefault(cell, []).extend(predicted)
        print(f"batch {number}/{len(who.batches)}", file=sys.stderr, flush=True)
    labels = np.concatenate([y.numpy() for _, y in who.batches])
    tables = {
        name: {cell: 100.0 * uar(labels, np.array(each)) for cell, each in cells.items()}
        for name, cells in predictions.items()
    }
    apart = {name: _apart(tables[name], tables["trained"]) for name in ("channels last", "folded")}
    changed = {name: _changed(predictions[name], predictions["trained"]) for name in apart}
    width = who.recogniser.network.settings.width
    row = Row(
        what=f"UARs of Table 1 and Figure 2, {len(apart['folded'])} cells of {len(labels)} clips, "
        f"VGG-16 of width {width} folded",
        against="the same as trained; in brackets as trained, in channels-last memory",
        target=f"≤ {POINTS} points in each cell",
        measured="; ".join(
            f"{word} {_told(apart, changed, name)}"
            for word, name in (("", "folded"), ("in brackets", "channels last"))
        ).strip(),
        met=_largest(apart["folded"]) <= POINTS,
    )
    write(
        f"grid_agreement-{width}",
        [row],
        folder=given.results,
        purifier=str(given.purifier),
        clips=len(labels),
        clean_uar=who.clean_uar(),
        changed_predictions=changed,
        cells=cells_told(tables),
    )
    return 0 if row.met else 1


def _all_clips(given: argparse.Namespace) -> int:
    """Return how many clips the held-out group has."""
    corpus = load(given.corpus, given.root, scheme=given.scheme)
    return len(corpus.folds(given.groups)[given.held_out - 1].test)


def _apart(table: dict[Cell, float], trained: dict[Cell, float]) -> Apart:
    return {cell: value - trained[cell] for cell, value in table.items()}


def _changed(found: Predictions, trained: Predictions) -> float:
    """Return the share (%) of predictions, over all cells, that are not the trained network's."""
    pairs = [(np.array(each), np.array(trained[cell])) for cell, each in found.items()]
    return float(100.0 * np.mean([a != b for a, b in pairs]))


def _largest(apart: Apart) -> float:
    return max(abs(each) for each in apart.values())


def _told(apart: dict[str, Apart], changed: dict[str, float], name: str) -> str:
    values = np.array(list(apart[name].values()))
    return (
        f"at most {_largest(apart[name]):.2f} points, {np.mean(np.abs(values) > POINTS) * 100:.0f} "
        f"% of cells above {POINTS}, on average {values.mean():+.2f}; {changed[name]:.2f} % of "
        "predictions differ"
    )


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("UARs of the attack grid under float32 roundings of one network.")
    add_grid(made, batch_size=16)
    made.add_argument("--clips", type=int, help="default: all clips of the held-out group")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"grid_agreement: {error}")
