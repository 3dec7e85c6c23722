"""What a defence is worth beyond its UAR: protection efficacy, recovery rate, harm rate.

All are shares. The spread over k is the population standard deviation, as in the paper (its σ of
1.86 and 2.14 for the UAR of SSAD follow from its Table 1 that way and no other).

A model that takes the target's place (adversarial training) is measured as a purifier is: who was
right or wrong on clean input, and R_no, are the bare target's; R_prot and recovery are what the
other model says of the same inputs, made with gradients of the bare target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.statistics import Interval, over_folds
from servax.report import tables
from servax.report.outcomes import CLEAN, UNDEFENDED, Condition, Outcomes
from servax.report.resampling import SpeakerDraws, interval_of

__all__ = ["curves", "figure_2", "over_steps", "summary"]


def curves(outcomes: Outcomes) -> pd.DataFrame:
    """Return PE and RR under oblivious PGD: index = k, columns = (defence, ``PE`` | ``RR``)."""
    conditions = outcomes.conditions("pgd")
    columns = {}
    for defence in outcomes.defences:
        if defence == UNDEFENDED:
            continue
        pairs = [_efficacy(outcomes, defence, c, c) for c in conditions]
        columns[defence, "PE"] = [pair[0] for pair in pairs]
        columns[defence, "RR"] = [pair[1] for pair in pairs]
    index = pd.Index([int(c.strength) for c in conditions], name="k")
    return pd.DataFrame(columns, index=index)


def _efficacy(
    outcomes: Outcomes,
    defence: str,
    bare: Condition | None,
    defended: Condition | None,
    rows: NDArray[np.bool_] | slice = slice(None),
) -> tuple[float, float]:
    """Return PE and RR; `bare` attacks the undefended target, `defended` the defended one."""
    labels, clean = outcomes.labels[rows], outcomes.cells[UNDEFENDED, CLEAN][rows]
    attacked = outcomes.predictions(UNDEFENDED, bare)
    protected = outcomes.predictions(defence, defended)
    if protected is None:
        return float("nan"), float("nan")
    recovery = metrics.recovery_rate(labels, clean, protected[rows])
    if attacked is None:
        return float("nan"), recovery
    efficacy = metrics.protection_efficacy(labels, clean, attacked[rows], protected[rows])
    return efficacy, recovery


def summary(outcomes: Outcomes) -> pd.DataFrame:
    """Return one row per defence: PE and RR (mean, sd over k, adaptive) and the harm rate."""
    by_steps = curves(outcomes)
    rows = {}
    for defence in outcomes.defences:
        if defence == UNDEFENDED:
            continue
        adaptive = _efficacy(
            outcomes, defence, outcomes.adaptive(UNDEFENDED), outcomes.adaptive(defence)
        )
        row = {}
        for i, name in enumerate(("PE", "RR")):
            values = by_steps[defence, name].to_numpy(dtype=np.float64)
            row[f"{name} mean"] = float(values.mean()) if values.size else float("nan")
            row[f"{name} sd"] = float(values.std()) if values.size else float("nan")
            row[f"{name} adaptive"] = adaptive[i]
        defended = outcomes.predictions(defence, CLEAN)
        row["harm"] = (
            float("nan")
            if defended is None
            else metrics.harm_rate(outcomes.labels, outcomes.cells[UNDEFENDED, CLEAN], defended)
        )
        rows[defence] = row
    return tables.frame_of(rows)


def figure_2(outcomes: Outcomes, *, defences: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the curves with their spread, one row per defence, k and measure (tidy).

    Args:
        outcomes: Predictions.
        defences: Of which; all when left out.

    Returns:
        Columns ``defence``, ``k``, ``measure`` (``PE`` | ``RR``), ``value`` (pooled over folds),
        ``mean_over_folds`` and ``sd_over_folds`` (population, over the folds in which it is
        defined), ``low`` and ``high`` (95 % bootstrap over speakers).
    """
    draws = SpeakerDraws.of(outcomes.speakers)
    runs = [outcomes.folds == run for run in range(len(outcomes.runs))]
    rows: list[dict[str, Any]] = []
    for defence in outcomes.defences if defences is None else defences:
        for c in outcomes.conditions("pgd"):
            if defence == UNDEFENDED or outcomes.predictions(defence, c) is None:
                continue
            pooled = _efficacy(outcomes, defence, c, c)
            apart = np.array([_efficacy(outcomes, defence, c, c, rows=run) for run in runs])
            resampled = _resampled(outcomes, defence, c, draws)
            for i, name in enumerate(("PE", "RR")):
                told, band = over_folds(apart[:, i]), interval_of(resampled[i])
                rows.append(
                    {
                        "defence": defence,
                        "k": int(c.strength),
                        "measure": name,
                        "value": pooled[i],
                        "mean_over_folds": told.mean,
                        "sd_over_folds": told.sd,
                        "low": band.low,
                        "high": band.high,
                    }
                )
    return pd.DataFrame(rows)


def over_steps(
    outcomes: Outcomes, defence: str, draws: SpeakerDraws | None
) -> dict[str, tuple[float, Interval | None]]:
    """Return ``PE`` and ``RR`` as means over every k of the oblivious PGD, with their intervals.

    Args:
        outcomes: Predictions; the defence and the bare target have every k.
        defence: Which one.
        draws: Speakers drawn; without them there are no intervals.
    """
    conditions = outcomes.conditions("pgd")
    pairs = [_efficacy(outcomes, defence, c, c) for c in conditions]
    drawn = [_resampled(outcomes, defence, c, draws) for c in conditions] if draws else []
    return {
        name: (
            float(np.mean([pair[i] for pair in pairs])),
            interval_of(np.mean([each[i] for each in drawn], axis=0)) if drawn else None,
        )
        for i, name in enumerate(("PE", "RR"))
    }


def _resampled(
    outcomes: Outcomes, defence: str, condition: Condition, draws: SpeakerDraws | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return PE and RR of each draw of speakers; empty without draws."""
    attacked = outcomes.predictions(UNDEFENDED, condition)
    protected = outcomes.predictions(defence, condition)
    if draws is None or protected is None:
        return np.empty(0), np.empty(0)
    right = outcomes.cells[UNDEFENDED, CLEAN] == outcomes.labels
    recovered = _ratio(draws.counts(~right & (protected == outcomes.labels)), draws.counts(~right))
    if attacked is None:
        return np.empty(0), recovered
    # The number of clean-correct utterances cancels: R_prot / R_no is a ratio of counts.
    left = draws.counts(right & (protected != outcomes.labels))
    risk = draws.counts(right & (attacked != outcomes.labels))
    return 1 - _ratio(left, risk), recovered


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
