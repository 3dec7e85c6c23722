"""UAR under attack as DataFrames, computed from predictions and nothing else.

UAR stands in percent and is pooled: the predictions of all folds count as one test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.intervals import Interval, over_folds, speaker_interval
from servax.report.outcomes import CLEAN, Condition, Outcomes

__all__ = [
    "EPSILONS",
    "STEPS",
    "adaptive_column",
    "fold_tables",
    "frame_of",
    "grid",
    "grid_columns",
    "intervals",
    "other_attacks",
    "percent",
    "strength_name",
    "value",
]

EPSILONS = (0.003, 0.006, 0.009, 0.012, 0.015)
"""ε of FGSM in Table 1, on the [0, 1] scale."""

STEPS = (3, 6, 9, 12, 15)
"""k of PGD in Table 1."""

INTERVAL_RESAMPLES = 1000
INTERVAL_SEED = 0

Columns = Mapping[str, Sequence[Condition]]


def _shown(present: Sequence[Condition], wanted: Sequence[float]) -> tuple[Condition, ...]:
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
        shown = _shown(outcomes.conditions(attack), wanted)
        columns.update({strength_name(condition): (condition,) for condition in shown})
        if shown:
            columns[f"{attack.upper()} mean"] = shown
    return columns


def _cells(
    outcomes: Outcomes, defence: str, conditions: Sequence[Condition | None]
) -> NDArray[np.intp] | None:
    """Return (K, N) predictions, or None where one of the K cells was not measured."""
    found = [outcomes.predictions(defence, condition) for condition in conditions]
    measured = [cell for cell in found if cell is not None]
    return np.stack(measured) if measured and len(measured) == len(found) else None


def _columns_of(outcomes: Outcomes, defence: str) -> dict[str, NDArray[np.intp] | None]:
    """Return heading → (K, N) predictions for one row of the grid."""
    row = {
        heading: _cells(outcomes, defence, conditions)
        for heading, conditions in grid_columns(outcomes).items()
    }
    if outcomes.adaptive_steps:
        row[adaptive_column(outcomes)] = _cells(outcomes, defence, [outcomes.adaptive(defence)])
    return row


def _percent(labels: NDArray[np.intp], cells: NDArray[np.intp] | None) -> float:
    """Return the mean UAR of (K, N) predictions in percent, ``nan`` for None."""
    if cells is None:
        return float("nan")
    return 100 * float(np.mean([metrics.uar(labels, cell) for cell in cells]))


def percent(outcomes: Outcomes, defence: str, conditions: Sequence[Condition | None]) -> float:
    """Return the pooled UAR in %, averaged over `conditions`; ``nan`` if one was not measured."""
    return _percent(outcomes.labels, _cells(outcomes, defence, conditions))


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


def fold_tables(outcomes: Outcomes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean and sample standard deviation over folds of each cell of `grid`, in %."""
    means: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, float]] = {}
    parts = [np.flatnonzero(outcomes.folds == fold) for fold in np.unique(outcomes.folds)]
    for defence in outcomes.defences:
        means[defence], spreads[defence] = {}, {}
        for heading, cells in _columns_of(outcomes, defence).items():
            values = [
                _percent(outcomes.labels[rows], None if cells is None else cells[:, rows])
                for rows in parts
            ]
            told = over_folds(values)
            means[defence][heading], spreads[defence][heading] = told.mean, told.sd
    return frame_of(means), frame_of(spreads)


def intervals(
    outcomes: Outcomes, *, resamples: int = INTERVAL_RESAMPLES, seed: int = INTERVAL_SEED
) -> dict[str, dict[str, Interval]]:
    """Return 95 % bootstrap intervals over speakers: defence → heading → interval in % UAR.

    Only for the clean, mean and adaptive columns. Every cell draws the same speakers, so that
    rows can be compared. Empty when the records hold a single speaker.
    """
    if np.unique(outcomes.speakers).size < 2:
        return {}
    one_hot = np.eye(len(outcomes.classes))[outcomes.labels]
    found: dict[str, dict[str, Interval]] = {}
    for defence in outcomes.defences:
        found[defence] = {}
        for heading, cells in _columns_of(outcomes, defence).items():
            if cells is None or not heading.startswith(("clean", "FGSM mean", "PGD mean", "adapt")):
                continue
            found[defence][heading] = _interval(
                (cells == outcomes.labels).astype(np.float64),
                one_hot,
                outcomes.speakers,
                resamples=resamples,
                generator=np.random.default_rng(seed),
            )
    return found


def _interval(
    right: NDArray[np.float64],
    one_hot: NDArray[np.float64],
    speakers: NDArray[np.str_],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> Interval:
    """Interval of the mean UAR over K cells; `right` is (K, N), `one_hot` the labels as (N, C)."""

    def mean_uar(rows: NDArray[np.intp]) -> float:
        # metrics.uar for all K cells in one product: 1000 draws of it would take minutes.
        members = one_hot[rows]
        totals = members.sum(axis=0)
        held = totals > 0
        hits = right[:, rows] @ members
        return 100 * float(np.mean(hits[:, held] / totals[held]))

    return speaker_interval(mean_uar, speakers, resamples=resamples, generator=generator)


def other_attacks(outcomes: Outcomes) -> pd.DataFrame:
    """Return pooled UAR in % of every measured condition that `grid` and `protection` leave out.

    So that nothing that was measured stays unsaid. Columns are headed ``pgd 10, transfer``.
    """
    told = {*outcomes.conditions("pgd")}.union(*grid_columns(outcomes).values())
    rest = sorted(
        {
            condition
            for defence, condition in outcomes.cells
            if condition not in told and condition != outcomes.adaptive(defence)
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
