"""Figure 1 of a report: what an attack does to a spectrogram, and what purifying makes of it."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from servax.report.examples import Examples
from servax.report.style import new_figure, tidy

__all__ = ["spectrogram_triple"]


def spectrogram_triple(examples: Examples) -> Figure:
    """Return original, attacked and purified log-Mel, and beside them their differences.

    The three spectrograms share one dB scale. Each difference has its own, since the attack is
    often fifty times smaller than what the purifier changes: on one scale it could not be seen.
    """
    figure = new_figure(6.6)
    panels = figure.subplots(3, 2)
    spectrograms = (examples.original, examples.attacked, examples.purified)
    low = min(float(part.min()) for part in spectrograms)
    high = max(float(part.max()) for part in spectrograms)
    names = ("original", "attacked", "purified")
    for i, (name, part) in enumerate(zip(names, spectrograms, strict=True)):
        _picture(panels[i, 0], part, examples, title=name, limits=(low, high), colours="magma")
        if i > 0:
            change = part - examples.original
            # A few extreme cells would wash out all others; the bar's arrows say that they exist.
            reach = float(np.quantile(np.abs(change), 0.99)) or 1.0
            _picture(
                panels[i, 1],
                change,
                examples,
                title=f"{name} − original",
                limits=(-reach, reach),
                colours="RdBu_r",
            )
    for axes in panels[:2].flat:
        axes.set_xlabel("")
    panels[2, 1].set_ylabel("")
    panels[1, 1].set_ylabel("")
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
    bar.ax.tick_params(labelsize=8.5)


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
