"""Per-utterance records become the figures of an entry, with intervals over speakers.

Everything is computed as a report does it (`servax.report`): UARs are pooled over groups and seeds,
the intervals are 95 % bootstraps that draw speakers, all from the same draws.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd

from servax.benchmark.record import Adaptive, Figure, Figures, GroupSet
from servax.errors import ServaxError
from servax.evaluation import metrics
from servax.evaluation.records import UNDEFENDED, validate
from servax.report import Measures, collect

__all__ = ["figures_of", "percent"]

HEADINGS = {"clean": "clean", "fgsm": "FGSM mean", "pgd": "PGD mean"}


def figures_of(
    records: pd.DataFrame,
    defence: str,
    *,
    target: str,
    groups: GroupSet,
    command: str,
    commit: str,
    date: str,
) -> Figures:
    """Return the figures of one defence.

    Args:
        records: Of one kind of recogniser: rows of `defence` and of the bare target on the paper's
            grid, and rows of attackers who know them, which need not have every utterance.
        defence: Its name in the records; ``undefended`` has neither PE nor RR.
        target: Network of the recognisers.
        groups: Which set of groups was measured.
        command: What was typed.
        commit: Of the code.
        date: YYYY-MM-DD.

    Raises:
        ServaxError: The records do not hold the defence, or a cell lacks some utterances.
    """
    records = validate(records)
    adaptive = records["knowledge"].isin(("adaptive", "bpda"))
    named = records["defence"].isin([defence, UNDEFENDED])
    run = Measures(collect(records[named & ~adaptive], adaptive_elsewhere=True))
    if defence not in run.defences:
        known = ", ".join(sorted(set(records["defence"])))
        raise ServaxError(f"the records hold no {defence!r}, only {known}; measure it first.")
    told = {(row["defence"], row["column"]): row for row in run.table.to_dict("records")}

    def uar(name: str, heading: str) -> Figure | None:
        row = told.get((name, heading))
        if row is None:
            return None
        return _figure(run.uar(name, heading), (row["low_percent"], row["high_percent"]))

    efficacy, recovery = _protection(run, defence)
    undefended = uar(UNDEFENDED, "clean")
    if undefended is None:
        raise ServaxError("the clean UAR of the bare target is not defined; expected utterances.")
    return Figures(
        target=target,
        groups=groups,
        heard=tuple(sorted({int(fold) for fold in records["fold"]})),
        seeds=run.found.seeds,
        utterances=len(run.found.labels) // len(run.found.seeds),
        undefended=undefended,
        **{name: uar(defence, heading) for name, heading in HEADINGS.items()},
        pe=efficacy,
        rr=recovery,
        adaptive=_adaptive(records[adaptive & (records["defence"] == defence)]),
        command=command,
        commit=commit,
        date=date,
    )


def _figure(value: float, band: tuple[float, float] | None, digits: int = 2) -> Figure | None:
    """Return a figure, rounded; None where it is not defined."""
    if np.isnan(value):
        return None
    if band is None or np.isnan(band).any():
        return Figure(value=round(value, digits))
    low, high = (round(end, digits) for end in band)
    return Figure(value=round(value, digits), low=low, high=high)


def _protection(run: Measures, defence: str) -> tuple[Figure | None, Figure | None]:
    """Return PE and RR, means over every k of the oblivious PGD, where they are defined."""
    if defence == UNDEFENDED or not run.found.conditions("pgd"):
        return None, None
    found = run.over_steps(defence)
    efficacy, recovery = (_figure(*found[name], 3) for name in ("PE", "RR"))
    return efficacy, recovery


def _adaptive(records: pd.DataFrame) -> tuple[Adaptive, ...]:
    """Return what each adaptive attack leaves, the smallest radius first."""
    found = []
    for key, rows in records.groupby(["epsilon", "steps", "restarts"], sort=True):
        radius, steps, restarts = cast("tuple[float, int, int]", key)
        seeds = rows["seed"].nunique()
        found.append(
            Adaptive(
                radius=radius,
                steps=steps,
                restarts=restarts,
                utterances=len(rows) // seeds,
                uar=round(percent(rows), 2),
            )
        )
    return tuple(found)


def percent(rows: pd.DataFrame) -> float:
    """Return the UAR of rows of records, in percent."""
    labels, predictions = ([str(name) for name in rows[key]] for key in ("label", "prediction"))
    return 100 * metrics.uar(labels, predictions)
