"""What a defence is worth beyond its UAR: protection efficacy, recovery rate, harm rate.

All are shares. The spread over k is the population standard deviation, as in the paper (its σ of
1.86 and 2.14 for the UAR of SSAD follow from its Table 1 that way and no other).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from servax.evaluation import metrics
from servax.report import tables
from servax.report.outcomes import CLEAN, UNDEFENDED, Condition, Outcomes

__all__ = ["curves", "summary"]


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
    outcomes: Outcomes, defence: str, bare: Condition | None, defended: Condition | None
) -> tuple[float, float]:
    """Return PE and RR; `bare` attacks the undefended target, `defended` the defended one."""
    clean = outcomes.cells[UNDEFENDED, CLEAN]
    attacked = outcomes.predictions(UNDEFENDED, bare)
    protected = outcomes.predictions(defence, defended)
    if protected is None:
        return float("nan"), float("nan")
    recovery = metrics.recovery_rate(outcomes.labels, clean, protected)
    if attacked is None:
        return float("nan"), recovery
    efficacy = metrics.protection_efficacy(outcomes.labels, clean, attacked, protected)
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
