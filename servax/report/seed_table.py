"""How far the training's own chance moves a number: mean ± sd over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from servax.evaluation import metrics
from servax.evaluation.statistics import MeanSd, over_folds
from servax.report import wording
from servax.report.cells import Cell, Head, TextTable
from servax.report.main_columns import cells, main_columns
from servax.report.outcomes import Outcomes

__all__ = ["over_seeds", "seed_table"]


def over_seeds(outcomes: Outcomes, defence: str, heading: str) -> MeanSd | None:
    """Return mean and sd over seeds of one main column, in % UAR, None where it has a gap.

    The folds of a seed are pooled, as in the grid.
    """
    predictions = cells(outcomes, defence, heading)
    if predictions is None:
        return None
    seed_of = np.array([seed for _, seed in outcomes.runs])[outcomes.folds]  # (N,)
    values = []
    for seed in outcomes.seeds:
        rows = seed_of == seed
        labels = outcomes.labels[rows]
        values.append(100 * np.mean([metrics.uar(labels, cell[rows]) for cell in predictions]))
    return over_folds(values)


def seed_table(outcomes: Outcomes) -> TextTable | None:
    """Return the main columns as mean ± sd over seeds; None for a single seed."""
    if len(outcomes.seeds) < 2:
        return None
    headings = main_columns(outcomes)

    found = {
        (defence, heading): over_seeds(outcomes, defence, heading)
        for defence in outcomes.defences
        for heading in headings
    }

    def cell(defence: str, heading: str) -> Cell:
        told = found[defence, heading]
        if told is None:
            return Cell(wording.MISSING)
        return Cell(f"{wording.percentage(told.mean)} ± {wording.percentage(told.sd)}")

    return TextTable(
        title="UAR (%), mean ± standard deviation over seeds",
        note=f"{len(outcomes.seeds)} seeds ({', '.join(map(str, outcomes.seeds))}), the folds of "
        "each pooled; the standard deviation divides by n.",
        head=(Head("defence"), *map(Head, headings)),
        rows=tuple(
            (Cell(defence), *(cell(defence, heading) for heading in headings))
            for defence in outcomes.defences
        ),
        name="uar-over-seeds",
        numbers=pd.DataFrame(
            [
                {"defence": d, "column": h, "mean": told.mean, "sd": told.sd, "seeds": told.count}
                for (d, h), told in found.items()
                if told is not None
            ]
        ),
    )
