"""The four columns that sum up a defence: clean, FGSM mean, PGD mean, and the adaptive attack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servax.report import tables
from servax.report.order import family
from servax.report.outcomes import Condition, Outcomes

__all__ = ["cells", "longest_pgd", "main_columns", "vaccines"]

_MAIN = ("clean", "FGSM mean", "PGD mean")


def main_columns(outcomes: Outcomes) -> tuple[str, ...]:
    """Return the headings, those that were measured, as `servax.report.tables.grid` has them."""
    present = tables.grid_columns(outcomes)
    adaptive = (tables.adaptive_column(outcomes),) if outcomes.adaptive_steps else ()
    return (*(heading for heading in _MAIN if heading in present), *adaptive)


def cells(outcomes: Outcomes, defence: str, heading: str) -> NDArray[np.intp] | None:
    """Return the (K, N) predictions behind one entry, None where one of the K was not measured."""
    adaptive = heading == tables.adaptive_column(outcomes)
    wanted: tuple[Condition | None, ...] = (
        (outcomes.adaptive(defence),) if adaptive else tables.grid_columns(outcomes)[heading]
    )
    return tables.predictions_of(outcomes, defence, wanted)


def longest_pgd(outcomes: Outcomes) -> Condition | None:
    """Return the oblivious PGD with the most steps in the grid (the paper's 15), if any."""
    shown = tables.grid_columns(outcomes).get("PGD mean", ())
    return shown[-1] if shown else None


def vaccines(outcomes: Outcomes) -> tuple[str, ...]:
    """Return the defences that are SSAD in one form or another."""
    return tuple(name for name in outcomes.defences if family(name) == "ssad")
