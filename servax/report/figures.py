"""Curves and confusion matrices of a report. Each function returns a matplotlib Figure.

No picture shows what an oblivious attacker leaves without what an adaptive one does: the curves
carry a tinted band with it, the confusion matrices a panel of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.report import tables
from servax.report.logs import Curves
from servax.report.marks import adaptive_band, legend
from servax.report.outcomes import CLEAN, UNDEFENDED, Condition, Outcomes
from servax.report.selection import drawn
from servax.report.style import look, new_figure, tidy

__all__ = ["confusion_matrices", "training_curves", "uar_curves"]

_FONT_POINTS = 8.5
_NAMED_CLASSES = 12  # beyond, only every second, third … has its name beside it
_ANNOTATED_CLASSES = 8  # beyond, numbers in the squares cannot be read at page width


def uar_curves(outcomes: Outcomes) -> Figure:
    """Return pooled UAR against ε of FGSM and against k of PGD, one line per defence.

    Of many defences it shows some (`servax.report.selection.drawn`).
    """
    shown = drawn(outcomes)
    figure = new_figure(4.0)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.6))
    for axes, (attack, letter) in zip(panels, (("fgsm", "ε"), ("pgd", "k")), strict=True):
        conditions = (CLEAN, *outcomes.conditions(attack))
        for defence in shown:
            colour, marker = look(defence, shown)
            axes.plot(
                [condition.strength for condition in conditions],
                [tables.percent(outcomes, defence, [condition]) for condition in conditions],
                marker=marker,
                markersize=4,
                linewidth=1.4,
                color=colour,
                label=defence,
            )
        if attack == "pgd" and outcomes.adaptive_steps:
            strictest = {name: [outcomes.adaptive(name)] for name in shown}
            left = {name: tables.percent(outcomes, name, c) for name, c in strictest.items()}
            adaptive_band(axes, outcomes, left)
        if attack == "fgsm":
            axes.set_xticks(*_epsilon_ticks(conditions))
        chance = 100 / len(outcomes.classes)
        axes.axhline(chance, color="#555555", linewidth=0.9, linestyle=":", label="chance")
        unit = "on the [0, 1] scale" if attack == "fgsm" else "of oblivious PGD"
        tidy(axes, title=attack.upper(), x=f"{letter} {unit}; 0 is clean")
    panels[0].set_ylabel("UAR (%)", fontsize=9)
    panels[0].set_ylim(bottom=0)
    legend(figure, panels[1], columns=3 if any(len(n) > 20 for n in shown) else 4)
    return figure


def _epsilon_ticks(conditions: Sequence[Condition]) -> tuple[list[float], list[str]]:
    values = [condition.strength for condition in conditions]
    shown = values if len(values) <= 7 else values[:: -(-len(values) // 6)]
    return shown, [f"{value:g}".replace("0.", ".") for value in shown]


def confusion_matrices(outcomes: Outcomes, *, defences: Sequence[str]) -> Figure:
    """Return confusions of the bare target and of `defences`: clean, PGD, and more PGD.

    Rows of a matrix are true classes and add up to 100 %. The last column is the adaptive attack.
    """
    shown = [c for c in outcomes.conditions("pgd") if c.strength <= max(tables.STEPS)]
    attacked = shown[-1] if shown else None
    rows = [name for name in dict.fromkeys((UNDEFENDED, *defences)) if name in outcomes.defences]
    figure = new_figure(3.05 * len(rows))
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for line, name in zip(panels, rows, strict=True):
        for i, condition in enumerate((CLEAN, attacked, outcomes.adaptive(name))):
            predictions = outcomes.predictions(name, condition)
            if predictions is None or condition is None:
                line[i].set_axis_off()
                continue
            _confusion(line[i], outcomes, predictions, first=i == 0)
            title = f"{name}\n{_condition_name(condition)}"
            line[i].set_title(title, fontsize=_FONT_POINTS, loc="left")
    return figure


def _condition_name(condition: Condition) -> str:
    if condition == CLEAN:
        return "clean"
    return f"{condition.knowledge} {condition.attack.upper()}-{condition.strength:g}"


def _confusion(
    axes: Axes, outcomes: Outcomes, predictions: NDArray[np.intp], *, first: bool
) -> None:
    names = outcomes.classes
    counts = metrics.confusion(outcomes.labels, predictions, range(len(names)))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    if len(names) <= _ANNOTATED_CLASSES:
        size = 9 if len(names) <= 5 else 6.5
        for row, column in np.ndindex(*shares.shape):
            value = shares[row, column]
            ink = "white" if value > 55 else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", size=size, color=ink)
    ticks = range(len(names))
    if len(names) <= _ANNOTATED_CLASSES:
        axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
    else:  # names would lie over each other
        ticks = range(0, len(names), -(-len(names) // _NAMED_CLASSES))
        axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [names[i] if first else "" for i in ticks])
    axes.tick_params(labelsize=_FONT_POINTS - 0.5, length=0)
    axes.set_xlabel("predicted", fontsize=_FONT_POINTS)
    axes.set_ylabel("true class" if first else "", fontsize=_FONT_POINTS)


_PARTS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73", "": "#000000"}


def training_curves(curves: Curves, *, title: str) -> Figure:
    """Return one panel per term of a training log (`servax.report.logs.curves`)."""
    terms = sorted(curves, key=lambda term: (term != "loss", term))
    columns = min(3, len(terms))
    lines = -(-len(terms) // columns)
    figure = new_figure(0.7 + 2.1 * lines)
    panels: Sequence[Axes] = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for axes, term in zip(panels, terms, strict=False):
        for part, values in sorted(curves[term].items()):
            epochs = sorted(values)
            axes.plot(
                epochs,
                [values[epoch] for epoch in epochs],
                color=_PARTS.get(part, "#777777"),
                linestyle="--" if part == "validation" else "-",
                marker="." if len(epochs) < 40 else "",
                linewidth=1.4,
                label=part or term,
            )
        tidy(axes, title=term, x="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.legend(fontsize=_FONT_POINTS - 0.5, frameon=False)
    for axes in panels[len(terms) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure
