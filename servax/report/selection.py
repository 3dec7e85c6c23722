"""Which defences a picture shows: twenty lines in one panel cannot be read.

All of them while they are few. Otherwise those that the paper compares and the strongest beside
them: SSAD, the best model of each objective of [18], PGD training, TRADES, the best control, and
the undefended target. Best is the highest mean over oblivious PGD, then over FGSM.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servax.report import paper, tables
from servax.report.order import UNDEFENDED, family
from servax.report.outcomes import Outcomes

__all__ = ["best_of_family", "drawn", "drawn_protection", "published"]

_FEW = 8
"""So many defences are all shown."""

_SSAD = 4
"""So many forms of SSAD are shown, in the order of the tables."""


def best_of_family(outcomes: Outcomes, *families: str) -> str | None:
    """Return the defence of these families with the best PGD mean; None where there is none."""
    names = [name for name in outcomes.defences if family(name) in families]
    return max(names, key=lambda name: _strength(outcomes, name)) if names else None


def _strength(outcomes: Outcomes, defence: str) -> tuple[float, float]:
    columns = tables.grid_columns(outcomes)
    means = [
        tables.percent(outcomes, defence, columns[heading]) if heading in columns else -np.inf
        for heading in ("PGD mean", "FGSM mean")
    ]
    # What was not measured is not the best.
    pgd, fgsm = (-np.inf if np.isnan(mean) else float(mean) for mean in means)
    return pgd, fgsm


def drawn(outcomes: Outcomes) -> tuple[str, ...]:
    """Return the defences of the UAR figure, in the order of the tables."""
    if len(outcomes.defences) <= _FEW:
        return outcomes.defences
    groups = ("similarity", "vanilla", "pgd-at", "trades", "control")
    return _ordered(outcomes, groups, [UNDEFENDED])


def drawn_protection(outcomes: Outcomes) -> tuple[str, ...]:
    """Return the defences of Figure 2: SSAD and the adversarially trained models, as the paper.

    Without any such model, or while they are few, all defences.
    """
    defences = tuple(name for name in outcomes.defences if name != UNDEFENDED)
    trained = best_of_family(outcomes, "similarity", "vanilla", "pgd-at", "trades") is not None
    if len(outcomes.defences) <= _FEW:
        return defences
    groups = ("similarity", "pgd-at", "trades") if trained else ("control",)
    return _ordered(outcomes, groups, []) or defences[:_FEW]


def _ordered(outcomes: Outcomes, groups: Sequence[str], extra: Sequence[str]) -> tuple[str, ...]:
    ssad = [name for name in outcomes.defences if family(name) == "ssad"][:_SSAD]
    best = [best_of_family(outcomes, group) for group in groups]
    wanted = {*ssad, *best, *extra}
    return tuple(name for name in outcomes.defences if name in wanted)


def published(outcomes: Outcomes) -> dict[str, tuple[str, paper.Protection]]:
    """Return our defence → the paper's name and averages of its counterpart."""
    found = {}
    if "ssad" in outcomes.defences:
        found["ssad"] = ("SSAD", paper.FIGURE_2["ssad"])
    best = best_of_family(outcomes, "similarity")
    if best is not None:
        found[best] = ("Adv.", paper.FIGURE_2["adversarial-similarity"])
    return found
