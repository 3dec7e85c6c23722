"""The figures of a report. Each function returns a matplotlib Figure; all have one look.

No picture shows what an oblivious attacker leaves without what an adaptive one does: the curves
carry a tinted band with it, the confusion matrices a panel of their own.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.calibration import PAPER_FLAT, PAPER_RISK
from servax.evaluation.records import UNDEFENDED
from servax.report import paper
from servax.report.measures import PROTECTION, Measures
from servax.report.predictions import CLEAN, Condition
from servax.report.run_files import Curves, Examples
from servax.report.style import FONT_POINTS, curve, legend, look, new_figure, tidy
from servax.report.tables import short

_NAMED_CLASSES = 12  # beyond, only every second, third … has its name beside it
_ANNOTATED_CLASSES = 8  # beyond, numbers in the squares cannot be read at page width
_DARK = "#555555"


Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a system → its points (size or strength of the attack, UAR in percent)."""


def _uar_panels(
    figure: Figure, panels: Mapping[str, Lines], among: Sequence[str], classes: int, **layout: Any
) -> list[Axes]:
    """Draw UAR from 0 on and chance, a panel per title, and the legend of the fullest panel."""
    axes = list(figure.subplots(1, len(panels), sharey=True, squeeze=False, **layout)[0])
    for panel, lines in zip(axes, panels.values(), strict=True):
        for name, points in lines.items():
            curve(panel, name, among, points, clip_on=False)  # 0 lies on the edge
        line = {"color": _DARK, "linewidth": 0.9, "linestyle": ":"}
        panel.axhline(100 / classes, label="chance", **line)
    for panel, title in zip(axes, panels, strict=True):
        tidy(panel, title=title, y="UAR (%)" if panel is axes[0] else "")
    axes[0].set_ylim(bottom=0)
    fullest = max(axes, key=lambda panel: len(panel.get_lines()))
    legend(figure, fullest, columns=3 if any(len(name) > 20 for name in among) else 4)
    return axes


def _grid(figure: Figure, count: int, columns: int, **layout: Any) -> list[Axes]:
    """Return so many panels in lines of `columns`; the last line is not filled up."""
    lines = -(-count // columns)
    panels: list[Axes] = figure.subplots(lines, columns, squeeze=False, **layout).flatten().tolist()
    for axes in panels[count:]:
        axes.set_axis_off()
    return panels[:count]


def uar_curves(run: Measures) -> Figure:
    """Return pooled UAR against ε of FGSM and against k of PGD, one line per defence.

    Of many defences it shows some.
    """
    shown = run.drawn_uar
    told = run.conditions.set_index(["defence", "attack", "strength", "knowledge"])["uar_percent"]
    conditions = {a.upper(): (CLEAN, *run.found.conditions(a)) for a in ("fgsm", "pgd")}
    panels = {
        title: {
            name: [
                (c.strength, told.get((name, c.attack, c.strength, c.knowledge), math.nan))
                for c in found
            ]
            for name in shown
        }
        for title, found in conditions.items()
    }
    figure, classes = new_figure(4.0), len(run.found.classes)
    fgsm, pgd = _uar_panels(figure, panels, shown, classes, width_ratios=(1, 1.6))
    if run.last:
        _adaptive_band(pgd, run, {name: run.uar(name, run.last[0].heading) for name in shown})
    values = [c.strength for c in conditions["FGSM"]]
    ticks = values if len(values) <= 7 else values[:: -(-len(values) // 6)]
    fgsm.set_xticks(ticks, [short(value) for value in ticks])
    fgsm.set_xlabel("ε on the [0, 1] scale; 0 is clean")
    pgd.set_xlabel("k of oblivious PGD; 0 is clean")
    return figure


def size_curves(
    panels: Mapping[str, Lines],
    *,
    among: Sequence[str],
    classes: int,
    words: str,
    ticks: Sequence[str] = (),
) -> Figure:
    """Return UAR against the size of an attack, a panel per title.

    Args:
        panels: Title → the curves of a panel; of sizes with names, against the number of a tick.
        among: All systems, which decide how each looks.
        classes: How many there are.
        words: What the size is.
        ticks: Names of the sizes, the largest change first; none for sizes ε from clean input on.
    """
    figure = new_figure(3.9 if ticks else 3.6)
    for panel in _uar_panels(figure, panels, among, classes):
        panel.set_xlabel(words)
        if ticks:
            panel.set_xticks(range(len(ticks)), ticks)
        else:
            panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
            panel.xaxis.set_major_formatter(lambda value, _: short(value))
    return figure


def certified_shares(table: pd.DataFrame) -> Figure:
    """Return the share of utterances that no change above a signal-to-noise ratio moves.

    Args:
        table: `noise_db`, a curve for each; `snr_db` and `firm_and_right` (shares).
    """
    figure = new_figure(3.0, width_inches=4.6)
    axes = figure.subplots()
    tidy(axes, x="SNR of the change, dB", y="right, and proved so, %")
    curves = {f"noise {noise:g} dB below": rows for noise, rows in table.groupby("noise_db")}
    for name, rows in curves.items():
        points = zip(rows["snr_db"], 100 * rows["firm_and_right"], strict=True)
        curve(axes, name, list(curves), points)
    axes.set_ylim(0, 100)
    legend(figure, axes)
    return figure


def _adaptive_band(axes: Axes, run: Measures, values: Mapping[str, float]) -> None:
    """Mark what the adaptive attacker leaves, one mark per defence, in a tinted band at the right.

    Side by side, since the values are often alike and near 0: on one spot they would hide
    each other.
    """
    end = max([*(c.strength for c in run.found.conditions("pgd")), 1.0])
    gap = end / 22
    left = end + gap
    for i, (name, value) in enumerate(values.items()):
        curve(
            axes,
            name,
            list(values),
            [(left + (i + 0.8) * gap, value)],
            label=None,
            linestyle="none",
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.7,
            clip_on=False,
            zorder=5,
        )
    right = left + (len(values) + 0.6) * gap
    axes.axvspan(left, right, color="#fff0cc", linewidth=0, zorder=0)
    axes.set_xlim(-gap / 2, right)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= end])
    axes.text(
        (left + right) / 2,
        0.985,
        f"adaptive\nPGD-{run.found.adaptive_steps}",
        transform=axes.get_xaxis_transform(),
        fontsize=FONT_POINTS,
        ha="center",
        va="top",
        color="#6b4a00",
    )


_TITLES = {
    "PE": "Protection efficacy (PE): share of the risk that the defence takes away",
    "RR": "Recovery rate (RR): share of clean errors that come out right",
}


def protection_curves(run: Measures) -> Figure:
    """Return Figure 2: PE (solid, above) and RR (dashed, below) against the steps k of PGD.

    Differs from the paper's figure, which has both in one panel and no bands: with several
    defences that is unreadable. The bands are 95 % bootstraps over speakers; the tinted strip
    holds the same measures under adaptive PGD; the averages over k stand in the legends, with the
    paper's own beside them as dotted lines.
    """
    shown, told = run.drawn_protection, run.worth.set_index("defence")
    figure = new_figure(7.6)
    for axes, measure in zip(figure.subplots(2, 1), PROTECTION, strict=True):
        points = run.protection[run.protection["measure"] == measure]
        points = points[points["defence"].isin(shown)]
        means = told[[f"{measure} mean", f"{measure} sd"]]
        for name, line in points.groupby("defence", sort=False):
            colour = look(str(name), shown).colour
            axes.fill_between(line["k"], line["low"], line["high"], color=colour, alpha=0.12, lw=0)
            curve(
                axes,
                str(name),
                shown,
                zip(line["k"], line["value"], strict=True),
                **({} if measure == "PE" else {"linestyle": "--", "marker": ""}),
                markersize=3.5,
                linewidth=1.5,
                label=f"{name}: {_average(*means.loc[name])}",
            )
        steps = [c.strength for c in run.found.conditions("pgd")]
        for name, (theirs, averages) in run.published.items():
            if name in shown:
                mean, sd = averages[measure]
                # Over the steps that the paper averages, not into the strip of the adaptive attack.
                curve(
                    axes,
                    name,
                    shown,
                    [(min(steps), mean), (min(30.0, max(steps)), mean)],
                    marker="",
                    linewidth=1.1,
                    linestyle=":",
                    label=f"paper (IEMOCAP), {theirs}: {_average(mean, sd)}",
                )
        if run.last:
            known = told[f"{measure} adaptive"].to_dict()
            _adaptive_band(axes, run, {name: known[name] for name in shown})
        axes.axhline(0, color=_DARK, linewidth=0.8)
        # A defence that harms at small k may not press all the others together.
        if points["low"].fillna(points["value"]).min() < -1:
            axes.set_ylim(bottom=-1)
        tidy(axes, title=_TITLES[measure], x="steps k of oblivious PGD", y=measure)
        below = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.2), "borderaxespad": 0.0}
        axes.legend(ncols=2, fontsize=FONT_POINTS, frameon=False, **below)
    return figure


def _average(mean: float, sd: float) -> str:
    return "" if np.isnan(mean) else f"{mean:.3f} ± {sd:.3f}".replace("-", "−").replace("0.", ".")


def confusion_matrices(run: Measures, *, defences: Sequence[str]) -> Figure:
    """Return confusions of the bare target and of `defences`: clean, PGD, and more PGD.

    Rows of a matrix are true classes and add up to 100 %. The last column is the adaptive attack.
    """
    found = run.found
    shown = [c for c in found.conditions("pgd") if c.strength <= max(paper.GRID["pgd"])]
    attacked = shown[-1] if shown else None
    rows = [name for name in dict.fromkeys((UNDEFENDED, *defences)) if name in run.defences]
    figure = new_figure(3.05 * len(rows))
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for line, name in zip(panels, rows, strict=True):
        for i, condition in enumerate((CLEAN, attacked, found.adaptive(name))):
            predictions = found.of(name, condition)
            if predictions is None or condition is None:
                line[i].set_axis_off()
                continue
            _confusion(line[i], run, predictions, first=i == 0)
            title = f"{name}\n{_condition_name(condition)}"
            line[i].set_title(title, fontsize=FONT_POINTS, loc="left")
    return figure


def _condition_name(condition: Condition) -> str:
    if condition == CLEAN:
        return "clean"
    return f"{condition.knowledge} {condition.attack.upper()}-{condition.strength:g}"


def _confusion(axes: Axes, run: Measures, predictions: NDArray[np.intp], *, first: bool) -> None:
    names = run.found.classes
    counts = metrics.confusion(run.found.labels, predictions, range(len(names)))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    ticks = range(len(names))
    if len(names) <= _ANNOTATED_CLASSES:
        size = 9 if len(names) <= 5 else 6.5
        for row, column in np.ndindex(*shares.shape):
            value = shares[row, column]
            ink = "white" if value > 55 else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", size=size, color=ink)
        axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
    else:  # names would lie over each other
        ticks = range(0, len(names), -(-len(names) // _NAMED_CLASSES))
        axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [names[i] if first else "" for i in ticks])
    axes.tick_params(labelsize=FONT_POINTS - 0.5, length=0)
    axes.set_xlabel("predicted", fontsize=FONT_POINTS)
    axes.set_ylabel("true class" if first else "", fontsize=FONT_POINTS)


_PARTS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73", "": "#000000"}


def training_curves(curves: Curves, *, title: str) -> Figure:
    """Return one panel per term of a training log (`training_curves_of`)."""
    terms = sorted(curves, key=lambda term: (term != "loss", term))
    columns = min(3, len(terms))
    figure = new_figure(0.7 + 2.1 * -(-len(terms) // columns))
    for axes, term in zip(_grid(figure, len(terms), columns), terms, strict=True):
        for part, values in sorted(curves[term].items()):
            axes.plot(
                *zip(*sorted(values.items()), strict=True),
                color=_PARTS.get(part, "#777777"),
                linestyle="--" if part == "validation" else "-",
                marker="." if len(values) < 40 else "",
                linewidth=1.4,
                label=part or term,
            )
        tidy(axes, title=term, x="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.legend(fontsize=FONT_POINTS - 0.5, frameon=False)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def spectrogram_triple(examples: Examples) -> Figure:
    """Return original, attacked and purified log-Mel, and beside them their differences.

    The three spectrograms share one dB scale. Each difference has its own, since the attack is
    often fifty times smaller than what the purifier changes: on one scale it could not be seen.
    """
    figure = new_figure(6.6)
    panels = figure.subplots(3, 2)
    parts = {name: getattr(examples, name) for name in ("original", "attacked", "purified")}
    low = min(float(part.min()) for part in parts.values())
    high = max(float(part.max()) for part in parts.values())
    for i, (name, part) in enumerate(parts.items()):
        _picture(panels[i, 0], part, examples, title=name, limits=(low, high), colours="magma")
        if i > 0:
            change = part - examples.original
            # A few extreme cells would wash out all others; the bar's arrows say that they exist.
            reach = float(np.quantile(np.abs(change), 0.99)) or 1.0
            title, ends = f"{name} − original", (-reach, reach)
            _picture(panels[i, 1], change, examples, title=title, limits=ends, colours="RdBu_r")
            panels[i, 1].set_ylabel("")
    for axes in panels[:2].flat:
        axes.set_xlabel("")
    _words(panels[0, 1], examples)
    return figure


def _picture(
    axes: Axes,
    values: NDArray[np.float32],
    examples: Examples,
    *,
    title: str,
    limits: tuple[float, float],
    colours: str,
) -> None:
    """Draw one (M, F) array in dB with a time axis in seconds and its own colour bar."""
    bins, frames = values.shape
    image = axes.imshow(
        values,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=(0, frames * examples.hop_seconds, 0, bins),
    )
    tidy(axes, title=title, x="time (s)", y="Mel bin", grid=False)
    beyond = bool(values.min() < limits[0] or values.max() > limits[1])
    bar = axes.figure.colorbar(
        image, ax=axes, pad=0.02, aspect=14, extend="both" if beyond else "neither"
    )
    bar.set_label("dB", fontsize=9)
    bar.ax.tick_params(labelsize=FONT_POINTS)


def _words(axes: Axes, examples: Examples) -> None:
    """Write the title and the size of both changes where a third difference would stand."""
    axes.set_axis_off()
    lines = []
    for name in ("attacked", "purified"):
        change = np.abs(getattr(examples, name) - examples.original)
        lines.append(
            f"{name} − original:\n  mean {change.mean():.2f} dB, at most {change.max():.2f} dB"
        )
    title = textwrap.fill(examples.title, 38)
    texts = (
        axes.text(0, 1, title, va="top", fontsize=9.5, weight="bold", linespacing=1.4),
        axes.text(0, 0.5, "\n".join(lines), va="top", fontsize=9, linespacing=1.5),
    )
    for text in texts:
        # Long words would otherwise push the panels of this column away from their colour bars.
        text.set_in_layout(False)


_BETTER, _WORSE, _OPEN = "#0072B2", "#D55E00", "#8a8a8a"


def difference_plot(frame: pd.DataFrame) -> Figure:
    """Return differences B − A in points, one panel per measure; grey where the interval holds 0.

    Args:
        frame: ``defence``, ``measure``, ``difference_points``, ``low_points``, ``high_points``.
    """
    defences = list(dict.fromkeys(frame["defence"]))
    compared = frame[frame["difference_points"].notna()]
    measures = list(dict.fromkeys(compared["measure"])) or ["nothing to compare"]
    figure = new_figure(1.1 + 0.27 * max(len(defences), 2))
    panels = figure.subplots(1, len(measures), sharex=True, sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for row in compared[compared["measure"] == measure].to_dict("records"):
            line, value = defences.index(row["defence"]), row["difference_points"]
            low, high = row["low_points"], row["high_points"]
            side = _BETTER if value > 0 else _WORSE
            colour = side if low > 0 or high < 0 else _OPEN
            axes.plot([low, high], [line] * 2, color=colour, lw=1.6, solid_capstyle="butt")
            axes.plot([value], [line], marker="o", markersize=5, color=colour, linestyle="none")
        axes.axvline(0, color=_DARK, linewidth=0.9)
        tidy(axes, title=measure, x="B − A, points")
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(defences)), defences)
    panels[0].set_ylim(len(defences) - 0.5, -0.5)
    return figure


def risk_curves(frame: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Return R_no against k, a panel for each radius, a line for each step of PGD.

    Args:
        frame: What `servax.evaluation.calibration.risks` returned.
        pairs: What `summary` made of it; its chosen pair is drawn thick.
    """
    radii, steps = (sorted(frame[name].unique()) for name in ("radius", "step"))
    chosen = pairs[pairs["chosen"]].iloc[0]
    names = {step: f"step {short(step)}" for step in steps}
    figure = new_figure(0.8 + 2.4 * -(-len(radii) // 2))
    panels = _grid(figure, len(radii), 2, sharex=True, sharey=True)
    dotted: dict[str, Any] = {"color": _DARK, "linewidth": 0.9, "linestyle": ":"}
    for i, (axes, radius) in enumerate(zip(panels, radii, strict=True)):
        here = bool(radius == chosen["radius"])
        for step, name in names.items():
            line = frame[(frame["radius"] == radius) & (frame["step"] == step)]
            thick = bool(here and step == chosen["step"])
            curve(
                axes,
                name,
                list(names.values()),
                zip(line["k"], 100 * line["risk"], strict=True),
                markersize=5 if thick else 3,
                linewidth=2.6 if thick else 1.1,
                zorder=4 if thick else 3,
            )
        words = f"paper: mean R {100 * PAPER_RISK:.0f} %, flat by k = {PAPER_FLAT}"
        axes.axhline(100 * PAPER_RISK, label=words, **dotted)
        axes.axvline(PAPER_FLAT, **dotted)
        lowest = i >= len(radii) - 2
        tidy(
            axes,
            title=f"radius {short(radius)}" + f", chosen with {names[chosen['step']]}" * here,
            x="steps k of PGD" if lowest else "",
            y="" if i % 2 else "R without defence (%)",
        )
        axes.tick_params(labelbottom=lowest)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    panels[0].set_ylim(0, 103)
    legend(figure, panels[0], columns=6)
    return figure
