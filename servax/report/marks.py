"""Marks that several pictures share: the legend, and the tinted band of the adaptive attack."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servax.report.outcomes import Outcomes
from servax.report.style import look

__all__ = ["adaptive_band", "legend"]

_FONT_POINTS = 8.5


def legend(figure: Figure, axes: Axes, *, columns: int = 4) -> None:
    """Put the legend of one panel below the whole figure."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=columns,
        fontsize=_FONT_POINTS,
        frameon=False,
    )


def adaptive_band(axes: Axes, outcomes: Outcomes, values: Mapping[str, float]) -> None:
    """Mark what the adaptive attacker leaves, one mark per defence, in a tinted band at the right.

    Side by side, since the values are often alike and near 0: on one spot they would hide
    each other.
    """
    steps = [condition.strength for condition in outcomes.conditions("pgd")]
    end = max([*steps, 1.0])
    gap = end / 22
    left = end + gap
    for i, (defence, value) in enumerate(values.items()):
        colour, marker = look(defence, list(values))
        axes.plot(
            [left + (i + 0.8) * gap],
            [value],
            marker=marker,
            markersize=6.5,
            linestyle="none",
            color=colour,
            markeredgecolor="white",
            markeredgewidth=0.7,
            clip_on=False,
            zorder=5,
        )
    right = left + (len(values) + 0.6) * gap
    axes.axvspan(left, right, color="#fff0cc", linewidth=0, zorder=0)
    axes.set_xlim(-gap / 2, right)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= end])
    words = f"adaptive\nPGD-{outcomes.adaptive_steps}"
    axes.text(
        (left + right) / 2,
        0.985,
        words,
        transform=axes.get_xaxis_transform(),
        fontsize=_FONT_POINTS,
        ha="center",
        va="top",
        color="#6b4a00",
    )
