"""Figure 2 of the paper: protection efficacy and recovery rate against the steps of PGD.

Differs from the paper's figure, which has both in one panel and no bands: with several defences
that is unreadable. The averages over k stand in the legends, with the paper's own beside them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servax.report import protection, tables
from servax.report.marks import adaptive_band
from servax.report.outcomes import Outcomes
from servax.report.selection import drawn_protection, published
from servax.report.style import look, new_figure, tidy

__all__ = ["protection_curves"]

_FONT_POINTS = 8.5
_TITLES = {
    "PE": "Protection efficacy (PE): share of the risk that the defence takes away",
    "RR": "Recovery rate (RR): share of clean errors that come out right",
}


def protection_curves(outcomes: Outcomes) -> Figure:
    """Return PE (solid, above) and RR (dashed, below) against k, with bands and averages.

    One colour per defence of `servax.report.selection.drawn_protection`. The bands are 95 %
    bootstraps over speakers; the tinted strip holds the same measures under adaptive PGD; dotted
    lines are the paper's averages.
    """
    shown = drawn_protection(outcomes)
    points, told = protection.figure_2(outcomes, defences=shown), protection.summary(outcomes)
    figure = new_figure(7.6)
    panels = figure.subplots(2, 1)
    for axes, measure in zip(panels, _TITLES, strict=True):
        for defence in shown:
            curve = points[(points["defence"] == defence) & (points["measure"] == measure)]
            _curve(axes, curve, shown, measure, _average(told, defence, measure))
        _published_lines(axes, outcomes, shown, measure)
        if outcomes.adaptive_steps:
            left = {d: tables.value(told, d, f"{measure} adaptive") for d in shown}
            adaptive_band(axes, outcomes, left)
        axes.axhline(0, color="#555555", linewidth=0.8)
        _limit(axes, points, shown, measure)
        tidy(axes, title=_TITLES[measure], x="steps k of oblivious PGD", y=measure)
        _legend(axes)
    return figure


def _curve(
    axes: Axes, curve: pd.DataFrame, shown: tuple[str, ...], measure: str, average: str
) -> None:
    if curve.empty:
        return
    defence = str(curve["defence"].iloc[0])
    colour, marker = look(defence, shown)
    axes.fill_between(curve["k"], curve["low"], curve["high"], color=colour, alpha=0.12, lw=0)
    axes.plot(
        curve["k"],
        curve["value"],
        linestyle="-" if measure == "PE" else "--",
        marker=marker if measure == "PE" else "",
        markersize=3.5,
        linewidth=1.5,
        color=colour,
        label=f"{defence}: {average}",
    )


def _average(told: pd.DataFrame, defence: str, measure: str) -> str:
    mean = tables.value(told, defence, f"{measure} mean")
    return _spread(mean, tables.value(told, defence, f"{measure} sd"))


def _spread(mean: float, sd: float) -> str:
    return "" if np.isnan(mean) else f"{mean:.3f} ± {sd:.3f}".replace("-", "−").replace("0.", ".")


def _published_lines(axes: Axes, outcomes: Outcomes, shown: tuple[str, ...], measure: str) -> None:
    for defence, (name, averages) in published(outcomes).items():
        if defence not in shown:
            continue
        told = averages.efficacy if measure == "PE" else averages.recovery
        steps = [condition.strength for condition in outcomes.conditions("pgd")]
        # Over the steps that the paper averages, not into the strip of the adaptive attack.
        axes.plot(
            [min(steps), min(30.0, max(steps))],
            [told.mean, told.mean],
            color=look(defence, shown).colour,
            linewidth=1.1,
            linestyle=":",
            label=f"paper (IEMOCAP), {name}: {_spread(told.mean, told.sd)}",
        )


def _limit(axes: Axes, points: pd.DataFrame, shown: tuple[str, ...], measure: str) -> None:
    """Let a defence that harms at small k not press all the others together."""
    here = points[points["defence"].isin(shown) & (points["measure"] == measure)]
    lowest = here["low"].fillna(here["value"]).min()
    if lowest < -1:
        axes.set_ylim(bottom=-1)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0.0, -0.2),
        ncols=2,
        fontsize=_FONT_POINTS,
        frameon=False,
        borderaxespad=0.0,
    )
