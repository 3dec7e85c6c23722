"""The picture of a comparison of two runs: B − A by defence, one panel for each measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servax.report.pairing import Difference
from servax.report.style import new_figure, tidy

__all__ = ["difference_plot"]

_BETTER, _WORSE, _OPEN = "#0072B2", "#D55E00", "#8a8a8a"


def difference_plot(found: Sequence[Difference]) -> Figure:
    """Return differences in points with their intervals; grey where the interval holds 0."""
    defences = list(dict.fromkeys(each.defence for each in found))
    compared = [each for each in found if not math.isnan(each.difference)]
    measures = list(dict.fromkeys(each.measure for each in compared)) or ["nothing to compare"]
    figure = new_figure(1.1 + 0.27 * max(len(defences), 2))
    panels = figure.subplots(1, len(measures), sharex=True, sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for each in compared:
            if each.measure == measure:
                _mark(axes, defences.index(each.defence), each)
        axes.axvline(0, color="#555555", linewidth=0.9)
        tidy(axes, title=measure, x="B − A, points")
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(defences)), defences)
    panels[0].set_ylim(len(defences) - 0.5, -0.5)
    return figure


def _mark(axes: Axes, line: int, each: Difference) -> None:
    low, high = each.interval.low, each.interval.high
    side = _BETTER if each.difference > 0 else _WORSE
    colour = side if low > 0 or high < 0 else _OPEN
    if not math.isnan(low):
        axes.plot([low, high], [line, line], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([each.difference], [line], marker="o", markersize=5, color=colour, linestyle="none")
