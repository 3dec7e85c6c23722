"""The picture of a calibration: R_no against k, a panel for each radius, a line for each step."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from servax.evaluation.calibration import PAPER_FLAT, PAPER_RISK
from servax.report.style import look, new_figure, tidy

__all__ = ["risk_curves"]

_FONT_POINTS = 8.5
_PANELS_IN_A_LINE = 2
_GREY = "#555555"


def risk_curves(frame: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Return the curves of `servax.evaluation.calibration.risks`.

    Args:
        frame: What `risks` returned.
        pairs: What `summary` made of it; its chosen pair is drawn thick.
    """
    radii, steps = (sorted(frame[name].unique()) for name in ("radius", "step"))
    lines = -(-len(radii) // _PANELS_IN_A_LINE)
    figure = new_figure(0.8 + 2.4 * lines)
    panels = figure.subplots(lines, _PANELS_IN_A_LINE, squeeze=False, sharex=True, sharey=True)
    chosen = pairs[pairs["chosen"]].iloc[0]
    names = [_short(step) for step in steps]
    for axes, radius in zip(panels.flat, radii, strict=False):
        for step, name in zip(steps, names, strict=True):
            curve = frame[(frame["radius"] == radius) & (frame["step"] == step)]
            thick = bool(step == chosen["step"] and radius == chosen["radius"])
            colour, marker = look(f"step {name}", [f"step {n}" for n in names])
            axes.plot(
                curve["k"],
                100 * curve["risk"],
                color=colour,
                marker=marker,
                markersize=5 if thick else 3,
                linewidth=2.6 if thick else 1.1,
                label=f"step {name}",
                zorder=4 if thick else 3,
            )
        _paper(axes)
        tidy(axes, title=f"radius {_short(radius)}" + _mark(chosen, radius))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    for axes in panels.flat[len(radii) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("R without defence (%)", fontsize=9)
    for axes in panels.flat[max(0, len(radii) - _PANELS_IN_A_LINE) : len(radii)]:
        axes.set_xlabel("steps k of PGD", fontsize=9)
        axes.tick_params(labelbottom=True)
    panels[0, 0].set_ylim(0, 103)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=6, fontsize=_FONT_POINTS, frameon=False
    )
    return figure


def _paper(axes: Axes) -> None:
    """Draw what the paper's numbers ask for."""
    words = "paper: mean R 89 %, flat by k = 9"
    axes.axhline(100 * PAPER_RISK, color=_GREY, linewidth=0.9, linestyle=":", label=words)
    axes.axvline(PAPER_FLAT, color=_GREY, linewidth=0.9, linestyle=":")


def _mark(chosen: pd.Series, radius: float) -> str:
    return f", chosen with step {_short(chosen['step'])}" if radius == chosen["radius"] else ""


def _short(value: float) -> str:
    return f"{value:g}".removeprefix("0")
