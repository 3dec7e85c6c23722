"""Table 1 by column: which conditions stand behind each entry, and all that is known of it.

One block is the attacker who knows only the bare target (the paper's Table 1), one the attacker who
knows the defence, at the same strengths. UAR stands in percent and is pooled over folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.statistics import over_folds
from servax.report import paper, tables
from servax.report.outcomes import CLEAN, UNDEFENDED, Condition, Outcomes
from servax.report.resampling import SpeakerDraws, interval_of

__all__ = ["Column", "adaptive", "by_condition", "measure", "oblivious", "wide"]


class Column(NamedTuple):
    """What a column of Table 1 is measured under; a mean has several strengths."""

    attack: str
    """``none``, ``fgsm`` or ``pgd``."""
    strengths: tuple[float, ...]
    """ε or k; 0 for clean input."""
    known: bool
    """Whether the attacker knows the defence."""

    @property
    def is_mean(self) -> bool:
        """Return whether the entry is a mean; of one strength, it is still headed so."""
        return len(self.strengths) > 1

    def conditions(self, outcomes: Outcomes, defence: str) -> tuple[Condition | None, ...]:
        """Return the condition of each strength; None where an attack was not measured."""
        if self.attack == "none":
            return (CLEAN,)
        if self.known:
            return tuple(outcomes.strictest(defence, self.attack, s) for s in self.strengths)
        return tuple(Condition(self.attack, s, "oblivious") for s in self.strengths)

    def in_paper(self, defence: str) -> tuple[float, float]:
        """Return the paper's UAR and its population sd over intensities, ``nan`` where none is."""
        nothing = (float("nan"), float("nan"))
        if self.attack == "none":
            return (paper.CLEAN_UAR, nothing[1]) if defence == UNDEFENDED else nothing
        row = paper.TABLE_1.get(defence)
        if row is None or self.known:
            return nothing
        if not self.is_mean:
            return row.at(self.attack, self.strengths[0]), nothing[1]
        grid = paper.EPSILONS if self.attack == "fgsm" else paper.STEPS
        if len(grid) != len(self.strengths) or not np.allclose(grid, self.strengths):
            return nothing
        return row.over(self.attack).mean, row.over(self.attack).sd


def oblivious(outcomes: Outcomes) -> dict[str, Column]:
    """Return the columns of the paper's Table 1, with the strictest adaptive PGD as the last."""
    columns = {
        heading: Column(conditions[0].attack, tuple(c.strength for c in conditions), known=False)
        for heading, conditions in tables.grid_columns(outcomes).items()
    }
    if outcomes.adaptive_steps:
        columns[tables.adaptive_column(outcomes)] = Column(
            "pgd", (float(outcomes.adaptive_steps),), known=True
        )
    return columns


def adaptive(outcomes: Outcomes) -> dict[str, Column]:
    """Return the same columns for the attacker who knows the defence.

    Empty when the records hold nothing but the last adaptive PGD, which stands in `oblivious`.
    """
    last = float(outcomes.adaptive_steps)
    columns = {"clean": Column("none", (0.0,), known=False)}
    for attack, wanted in (("fgsm", tables.EPSILONS), ("pgd", tables.STEPS)):
        present = [Condition(attack, s, "adaptive") for s in outcomes.exact_strengths(attack)]
        if attack == "pgd" and [c.strength for c in present] == [last]:
            present = []
        shown = tables.shown(present, wanted)
        for c in shown:
            columns[tables.strength_name(c)] = Column(attack, (c.strength,), known=True)
        if shown:
            strengths = tuple(c.strength for c in shown)
            columns[f"{attack.upper()} mean"] = Column(attack, strengths, known=True)
    if len(columns) == 1:
        return {}
    columns[tables.adaptive_column(outcomes)] = Column("pgd", (last,), known=True)
    return columns


def measure(outcomes: Outcomes, columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return all that is known of each entry, one row per defence and column (tidy).

    Columns of the frame: ``defence``, ``column`` (heading), ``attack``, ``strength`` (``nan`` of a
    mean), ``knowledge``, ``intensities`` (K), ``uar_percent``, ``sd_over_intensities_percent``
    (population), ``over_clean`` (share of the clean UAR of the undefended target),
    ``mean_over_folds_percent``, ``sd_over_folds_percent`` (population), ``low_percent`` and
    ``high_percent`` (95 % over speakers), and the paper's own ``paper_uar_percent``,
    ``paper_sd_over_intensities_percent`` and ``paper_over_clean``. What was not measured is
    ``nan``.
    """
    draws = _draws(outcomes)
    clean = tables.percent(outcomes, UNDEFENDED, [CLEAN])
    rows = []
    for defence in outcomes.defences:
        for heading, column in columns.items():
            conditions = column.conditions(outcomes, defence)
            known = [c.knowledge for c in conditions if c is not None]
            published, spread = column.in_paper(defence)
            rows.append(
                {
                    "defence": defence,
                    "column": heading,
                    "attack": column.attack,
                    "strength": float("nan") if column.is_mean else column.strengths[0],
                    "knowledge": "/".join(dict.fromkeys(known)),
                    "intensities": len(column.strengths),
                    **_entry(
                        outcomes, tables.predictions_of(outcomes, defence, conditions), clean, draws
                    ),
                    "paper_uar_percent": published,
                    "paper_sd_over_intensities_percent": spread,
                    "paper_over_clean": published / paper.CLEAN_UAR,
                }
            )
    return pd.DataFrame(rows)


def by_condition(outcomes: Outcomes) -> pd.DataFrame:
    """Return UAR, folds and interval of every cell that was measured, one row each (tidy)."""
    draws = _draws(outcomes)
    clean = tables.percent(outcomes, UNDEFENDED, [CLEAN])
    rows = []
    for defence in outcomes.defences:
        found = sorted(condition for d, condition in outcomes.cells if d == defence)
        for c in found:
            entry = _entry(outcomes, tables.predictions_of(outcomes, defence, [c]), clean, draws)
            del entry["sd_over_intensities_percent"]
            rows.append({"defence": defence, **c._asdict(), **entry})
    return pd.DataFrame(rows)


def wide(frame: pd.DataFrame, measured: str) -> pd.DataFrame:
    """Return one number of `measure` as row = defence, column = heading, in their order."""
    return tables.frame_of(
        {
            str(defence): dict(zip(part["column"], part[measured], strict=True))
            for defence, part in frame.groupby("defence", sort=False)
        }
    )


def _draws(outcomes: Outcomes) -> SpeakerDraws | None:
    return SpeakerDraws.of(outcomes.speakers)


def _entry(
    outcomes: Outcomes, cells: NDArray[np.intp] | None, clean: float, draws: SpeakerDraws | None
) -> dict[str, Any]:
    """Return the numbers of one entry from its (K, N) predictions."""
    names = ("uar", "sd_over_intensities", "mean_over_folds", "sd_over_folds", "low", "high")
    entry = dict.fromkeys((f"{name}_percent" for name in names), float("nan"))
    entry["over_clean"] = float("nan")
    if cells is None:
        return entry
    uars = [100 * metrics.uar(outcomes.labels, cell) for cell in cells]
    told = over_folds(tables.fold_values(outcomes, cells))
    entry["uar_percent"] = float(np.mean(uars))
    entry["sd_over_intensities_percent"] = float(np.std(uars)) if len(uars) > 1 else float("nan")
    entry["mean_over_folds_percent"], entry["sd_over_folds_percent"] = told.mean, told.sd
    entry["over_clean"] = entry["uar_percent"] / clean if clean else float("nan")
    if draws is not None:
        interval = interval_of(draws.uars(outcomes.labels, cells))
        entry["low_percent"], entry["high_percent"] = interval.low, interval.high
    return entry
