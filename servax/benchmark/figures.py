"""Per-utterance records become the figures of an entry, with intervals over speakers.

Everything is computed as a report does it (`servax.report`): UARs are pooled over groups and seeds,
the intervals are 95 % bootstraps that draw speakers, all from the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.benchmark.record import Adaptive, Figure, Figures, GroupSet
from servax.errors import ServaxError
from servax.evaluation import metrics
from servax.evaluation.protocol import UNDEFENDED
from servax.report import tables
from servax.report.outcomes import CLEAN, Condition, Outcomes, align
from servax.report.resampling import SpeakerDraws, interval_of

__all__ = ["ADAPTIVE", "Measurement", "adaptive_name", "figures_of"]

ADAPTIVE = "pgd-restarts"
"""How the names of adaptive attacks begin in records; their strength is the radius."""
HEADINGS = {"clean": "clean", "fgsm": "FGSM mean", "pgd": "PGD mean"}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is true of all figures of one measurement."""

    target: str
    """Network of the recognisers."""
    groups: GroupSet
    """Which set of groups was measured."""
    command: str
    """What was typed."""
    commit: str
    """Of the code."""
    date: str
    """YYYY-MM-DD."""


def adaptive_name(steps: int, restarts: int) -> str:
    """Return the name in records of PGD through the defence: ``pgd-restarts-100x5``."""
    return f"{ADAPTIVE}-{steps}x{restarts}"


def figures_of(records: pd.DataFrame, defence: str, measurement: Measurement) -> Figures:
    """Return the figures of one defence.

    Args:
        records: Of one kind of recogniser: rows of `defence` and of the bare target on the paper's
            grid, and rows of attacks called `adaptive_name`, which need not have every utterance.
        defence: Its name in the records; ``undefended`` has neither PE nor RR.
        measurement: Where the records come from.

    Raises:
        ServaxError: The records do not hold the defence, or a cell lacks some utterances.
    """
    adaptive = records["attack"].str.startswith(ADAPTIVE)
    named = records["defence"].isin([defence, UNDEFENDED])
    outcomes = align(records[named & ~adaptive])
    if defence not in outcomes.defences:
        known = ", ".join(sorted(set(records["defence"])))
        raise ServaxError(f"the records hold no {defence!r}, only {known}; measure it first.")
    several = np.unique(outcomes.speakers).size > 1
    draws = SpeakerDraws(outcomes.speakers) if several else None
    grid, intervals = tables.grid(outcomes), tables.intervals(outcomes)

    def uar(name: str, heading: str) -> Figure | None:
        if heading not in grid.columns:
            return None
        ends = intervals[name].get(heading) if several else None
        band = (ends.low, ends.high) if ends else None
        return _figure(tables.value(grid, name, heading), band)

    efficacy, recovery = _protection(outcomes, defence, draws)
    undefended = uar(UNDEFENDED, "clean")
    if undefended is None:
        raise ServaxError("the clean UAR of the bare target is not defined; expected utterances.")
    return Figures(
        target=measurement.target,
        groups=measurement.groups,
        heard=tuple(sorted({int(fold) for fold in records["fold"]})),
        seeds=outcomes.seeds,
        utterances=len(outcomes.labels) // len(outcomes.seeds),
        undefended=undefended,
        **{name: uar(defence, heading) for name, heading in HEADINGS.items()},
        pe=efficacy,
        rr=recovery,
        adaptive=_adaptive(records[adaptive & (records["defence"] == defence)]),
        command=measurement.command,
        commit=measurement.commit,
        date=measurement.date,
    )


def _figure(value: float, band: tuple[float, float] | None, digits: int = 2) -> Figure | None:
    """Return a figure, rounded; None where it is not defined."""
    if np.isnan(value):
        return None
    if band is None or np.isnan(band).any():
        return Figure(value=round(value, digits))
    low, high = (round(end, digits) for end in band)
    return Figure(value=round(value, digits), low=low, high=high)


def _protection(
    outcomes: Outcomes, defence: str, draws: SpeakerDraws | None
) -> tuple[Figure | None, Figure | None]:
    """Return PE and RR, means over every k of the oblivious PGD, where they are defined."""
    conditions = outcomes.conditions("pgd")
    if defence == UNDEFENDED or not conditions:
        return None, None
    pairs = [_pair(outcomes, defence, c) for c in conditions]
    drawn = [_drawn(outcomes, defence, c, draws) for c in conditions] if draws else []
    found = []
    for i in (0, 1):
        band = None
        if drawn:
            interval = interval_of(np.mean([each[i] for each in drawn], axis=0))
            band = (interval.low, interval.high)
        found.append(_figure(float(np.mean([pair[i] for pair in pairs])), band, 3))
    return found[0], found[1]


def _cells(
    outcomes: Outcomes, defence: str, condition: Condition
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the predictions: bare and clean, bare and attacked, defended and attacked."""
    cells = outcomes.cells
    return cells[UNDEFENDED, CLEAN], cells[UNDEFENDED, condition], cells[defence, condition]


def _pair(outcomes: Outcomes, defence: str, condition: Condition) -> tuple[float, float]:
    clean, attacked, protected = _cells(outcomes, defence, condition)
    return (
        metrics.protection_efficacy(outcomes.labels, clean, attacked, protected),
        metrics.recovery_rate(outcomes.labels, clean, protected),
    )


def _drawn(
    outcomes: Outcomes, defence: str, condition: Condition, draws: SpeakerDraws
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return PE and RR of each draw of speakers; ``nan`` where a draw does not define them."""
    clean, attacked, protected = _cells(outcomes, defence, condition)
    right, kept = clean == outcomes.labels, protected == outcomes.labels
    left = draws.counts(right & ~kept)
    risk = draws.counts(right & (attacked != outcomes.labels))
    return 1 - _ratio(left, risk), _ratio(draws.counts(~right & kept), draws.counts(~right))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _adaptive(records: pd.DataFrame) -> tuple[Adaptive, ...]:
    """Return what each adaptive attack leaves, the smallest radius first."""
    found = []
    for key, rows in records.groupby(["attack", "strength"], sort=True):
        name, radius = cast("tuple[str, float]", key)
        steps, restarts = map(int, name.removeprefix(f"{ADAPTIVE}-").split("x"))
        uar = 100 * metrics.uar(_names(rows["label"]), _names(rows["prediction"]))
        seeds = rows["seed"].nunique()
        found.append(
            Adaptive(
                radius=radius,
                steps=steps,
                restarts=restarts,
                utterances=len(rows) // seeds,
                uar=round(uar, 2),
            )
        )
    return tuple(sorted(found, key=lambda each: (each.radius, each.steps, each.restarts)))


def _names(column: pd.Series[str]) -> Sequence[str]:
    return [str(name) for name in column]
