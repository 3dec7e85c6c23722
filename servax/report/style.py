"""How every picture looks: size, colours, type, and the way to PNG.

The object-oriented interface of matplotlib only: no pyplot, no global state, no screen. Colours
are those of Okabe & Ito, told apart by people with any common colour blindness; each defence also
has its own marker, so that a grey print can be read.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from servax.report.predictions import family

PAGE_WIDTH_INCHES = 7.2
"""Between the margins of A4 and of US letter."""

_DPI = 170
FONT_POINTS = 8.5
"""Size of all type but headings and the names of axes."""
_LARGER = 9
_GREY = "#8a8a8a"


class Look(NamedTuple):
    """Colour and marker of one defence."""

    colour: str
    marker: str


_FIXED = {
    "undefended": Look("#000000", "o"),
    "ssad": Look("#0072B2", "s"),
    "ssad-residual": Look("#D55E00", "D"),
    "mean-filter": Look("#009E73", "^"),
    "gaussian-noise": Look("#CC79A7", "v"),
    "quantise-4": Look("#E69F00", "P"),
    "quantise-8": Look("#56B4E9", "X"),
    "pgd-at": Look("#7A4EAB", ">"),
    "trades": Look("#B8A800", "<"),
}

_FAMILIES = {
    "similarity": Look("#A3003B", "d"),
    "vanilla": Look("#8B5A2B", "h"),
    "smoothed": Look("#2F4B26", "H"),
}
"""Pictures show the best one of each."""

_OTHERS = (
    Look("#5F6B00", "p"),
    Look("#00808A", "8"),
    Look("#A65628", "*"),
    Look("#8856A7", "H"),
    Look("#F781BF", "1"),
    Look("#6A6A6A", "2"),
)


def look(defence: str, defences: Sequence[str]) -> Look:
    """Return the look of `defence` among all `defences` of the picture."""
    if defence in _FIXED:
        return _FIXED[defence]
    kin = [name for name in defences if family(name) == family(defence)]
    if family(defence) in _FAMILIES and kin == [defence]:
        return _FAMILIES[family(defence)]
    others = [name for name in defences if name not in _FIXED]
    return _OTHERS[others.index(defence) % len(_OTHERS)]


def new_figure(height_inches: float, *, width_inches: float = PAGE_WIDTH_INCHES) -> Figure:
    """Return an empty figure of page width whose parts cannot overlap."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Give one panel its words, its type size and a quiet frame."""
    axes.set_title(title, fontsize=_LARGER + 1, loc="left")
    axes.set_xlabel(x, fontsize=_LARGER)
    axes.set_ylabel(y, fontsize=_LARGER)
    axes.tick_params(labelsize=FONT_POINTS, color=_GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    if grid:
        axes.grid(visible=True, color="#e3e3e3", linewidth=0.6)
        axes.set_axisbelow(True)


def curve(
    axes: Axes,
    name: str,
    among: Sequence[str],
    points: Iterable[tuple[float, float]],
    **look_of: Any,
) -> None:
    """Draw (x, y) points as the line of one defence, with its colour, marker and label."""
    colour, marker = look(name, among)
    line: dict[str, Any] = {"marker": marker, "markersize": 4, "linewidth": 1.4, "label": name}
    axes.plot(*zip(*points, strict=True), color=colour, **(line | look_of))


def legend(figure: Figure, axes: Axes, *, columns: int = 4) -> None:
    """Put the legend of one panel below the whole figure."""
    handles, names = axes.get_legend_handles_labels()
    words: dict[str, Any] = {"ncols": columns, "fontsize": FONT_POINTS, "frameon": False}
    figure.legend(handles, names, loc="outside lower center", **words)


def png(figure: Figure, *, dpi: int = _DPI) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()
