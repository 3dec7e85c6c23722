"""UAR under attack as DataFrames, computed from predictions and nothing else.

UAR stands in percent and is pooled: the predictions of all folds count as one test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.statistics import Interval, no_interval, over_folds
from servax.report import paper
from servax.report.outcomes import CLEAN, Condition, Outcomes
from servax.report.resampling import RESAMPLES, SEED, SpeakerDraws, interval_of

__all__ = [
    "EPSILONS",
    "STEPS",
    "adaptive_column",
    "by_fold",
    "fold_tables",
    "fold_values",
    "frame_of",
    "grid",
    "grid_columns",
    "intervals",
    "other_attacks",
    "percent",
    "predictions_of",
    "shown",
    "strength_name",
    "value",
]

EPSILONS = paper.EPSILONS
"""ε of FGSM in Table 1, on the [0, 1] scale."""

STEPS = paper.STEPS
"""k of PGD in Table 1."""

INTERVAL_RESAMPLES = RESAMPLES
INTERVAL_SEED = SEED

Columns = Mapping[str, Sequence[Condition]]


def shown(present: Sequence[Condition], wanted: Sequence[float]) -> tuple[Condition, ...]:
    """Return the conditions of the paper's grid, or all where the run used none of it."""
    on_grid = tuple(c for c in present if any(np.isclose(c.strength, w) for w in wanted))
    return on_grid or tuple(present)


def strength_name(condition: Condition) -> str:
    """Return ``FGSM .003`` or ``PGD 15``, as the paper heads its columns."""
    return f"{condition.attack.upper()} {condition.strength:g}".replace(" 0.", " .")


def adaptive_column(outcomes: Outcomes) -> str:
    """Return the heading of the adaptive column, ``adaptive PGD-30``."""
    return f"adaptive PGD-{outcomes.adaptive_steps}"


def grid_columns(outcomes: Outcomes) -> dict[str, tuple[Condition, ...]]:
    """Return heading → conditions; a heading with several is their mean. Adaptive not included."""
    columns: dict[str, tuple[Condition, ...]] = {"clean": (CLEAN,)}
    for attack, wanted in (("fgsm", EPSILONS), ("pgd", STEPS)):
        found = shown(outcomes.conditions(attack), wanted)
        columns.update({strength_name(condition): (condition,) for condition in found})
        if found:
            columns[f"{attack.upper()} mean"] = found
    return columns


def predictions_of(
    outcomes: Outcomes, defence: str, conditions: Sequence[Condition | None]
) -> NDArray[np.intp] | None:
    """Return (K, N) predictions, or None where one of the K cells was not measured."""
    found = [outcomes.predictions(defence, condition) for condition in conditions]
    measured = [cell for cell in found if cell is not None]
    return np.stack(measured) if measured and len(measured) == len(found) else None


def _columns_of(outcomes: Outcomes, defence: str) -> dict[str, NDArray[np.intp] | None]:
    """Return heading → (K, N) predictions for one row of the grid."""
    row = {
        heading: predictions_of(outcomes, defence, conditions)
        for heading, conditions in grid_columns(outcomes).items()
    }
    if outcomes.adaptive_steps:
        row[adaptive_column(outcomes)] = predictions_of(
            outcomes, defence, [outcomes.adaptive(defence)]
        )
    return row


def _percent(labels: NDArray[np.intp], cells: NDArray[np.intp] | None) -> float:
    """Return the mean UAR of (K, N) predictions in percent, ``nan`` for None."""
    if cells is None:
        return float("nan")
    return 100 * float(np.mean([metrics.uar(labels, cell) for cell in cells]))


def percent(outcomes: Outcomes, defence: str, conditions: Sequence[Condition | None]) -> float:
    """Return the pooled UAR in %, averaged over `conditions`; ``nan`` if one was not measured."""
    return _percent(outcomes.labels, predictions_of(outcomes, defence, conditions))


def frame_of(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return a DataFrame of defence → heading → number, in the order given."""
    index = pd.Index(list(rows), name="defence")
    return pd.DataFrame([dict(row) for row in rows.values()], index=index)


def value(table: pd.DataFrame, row: object, column: object) -> float:
    """Return one number of a table."""
    return float(cast("float", table.loc[row, column]))  # type: ignore[index]


def grid(outcomes: Outcomes) -> pd.DataFrame:
    """Return the Table-1 grid: row = defence, column = condition, value = pooled UAR in %.

    A cell that was not measured is ``nan``, and so is a mean over such cells.
    """
    return frame_of(
        {
            defence: {
                heading: _percent(outcomes.labels, cells)
                for heading, cells in _columns_of(outcomes, defence).items()
            }
            for defence in outcomes.defences
        }
    )


def fold_values(outcomes: Outcomes, cells: NDArray[np.intp] | None) -> list[float]:
    """Return the mean UAR in % of (K, N) predictions in each run, ``nan`` for None.

    A run is a fold with a seed, in the order of `Outcomes.runs`.
    """
    runs = (outcomes.folds == run for run in range(len(outcomes.runs)))
    return [
        _percent(outcomes.labels[rows], None if cells is None else cells[:, rows]) for rows in runs
    ]


def fold_tables(outcomes: Outcomes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean and population standard deviation over folds of each cell of `grid`, in %."""
    means: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, float]] = {}
    for defence in outcomes.defences:
        means[defence], spreads[defence] = {}, {}
        for heading, cells in _columns_of(outcomes, defence).items():
            told = over_folds(fold_values(outcomes, cells))
            means[defence][heading], spreads[defence][heading] = told.mean, told.sd
    return frame_of(means), frame_of(spreads)


def by_fold(outcomes: Outcomes) -> pd.DataFrame:
    """Return each entry of `grid` in each run, one row each (tidy)."""
    rows = [
        {"defence": defence, "column": heading, "fold": fold, "seed": seed, "uar_percent": uar}
        for defence in outcomes.defences
        for heading, cells in _columns_of(outcomes, defence).items()
        if cells is not None
        for (fold, seed), uar in zip(outcomes.runs, fold_values(outcomes, cells), strict=True)
    ]
    return pd.DataFrame(rows)


def intervals(
    outcomes: Outcomes, *, resamples: int = INTERVAL_RESAMPLES, seed: int = INTERVAL_SEED
) -> dict[str, dict[str, Interval]]:
    """Return 95 % bootstrap intervals over speakers: defence → heading → interval in % UAR.

    Only for the clean, mean and adaptive columns. Every cell draws the same speakers, so that
    rows can be compared. Empty when the records hold too few speakers.
    """
    if no_interval(np.unique(outcomes.speakers).size):
        return {}
    draws = SpeakerDraws(outcomes.speakers, resamples=resamples, seed=seed)
    return {
        defence: {
            heading: interval_of(draws.uars(outcomes.labels, cells))
            for heading, cells in _columns_of(outcomes, defence).items()
            if cells is not None
            and heading.startswith(("clean", "FGSM mean", "PGD mean", "adaptive"))
        }
        for defence in outcomes.defences
    }


def other_attacks(
    outcomes: Outcomes, *, told: Collection[tuple[str, Condition]] = ()
) -> pd.DataFrame:
    """Return pooled UAR in % of every measured condition that no other table shows.

    So that nothing that was measured stays unsaid. Columns are headed ``pgd 10, transfer``.

    Args:
        outcomes: Predictions.
        told: (defence, condition) that stand elsewhere, besides those of `grid` and oblivious PGD.
    """
    known = {*outcomes.conditions("pgd")}.union(*grid_columns(outcomes).values())
    rest = sorted(
        {
            condition
            for defence, condition in outcomes.cells
            if condition not in known
            and condition != outcomes.adaptive(defence)
            and (defence, condition) not in told
        }
    )
    return frame_of(
        {
            defence: {
                f"{c.attack} {c.strength:g}, {c.knowledge}": percent(outcomes, defence, [c])
                for c in rest
            }
            for defence in outcomes.defences
        }
    )
