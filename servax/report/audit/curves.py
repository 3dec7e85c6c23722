"""The picture of an audit: UAR against ε, by what the attacker knows."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from servax.report.audit.result import AuditResult
from servax.report.audit.scores import KNOWING, UNKNOWING, Scores
from servax.report.marks import legend
from servax.report.outcomes import UNDEFENDED
from servax.report.pictures import Picture
from servax.report.style import look, new_figure, png, tidy

__all__ = ["curve", "picture", "uar_figure"]

Lines = list[tuple[str, list[tuple[float, float]]]]
"""Name of a system and its curve."""

_ALL = (*UNKNOWING, *KNOWING)


def curve(found: Scores, system: str, knowledge: Sequence[str]) -> list[tuple[float, float]]:
    """Return (ε, UAR in percent) of a system, clean input first, up to the audited radius.

    At each ε stands the worst case of all attacks of these attackers that stay within it. Empty
    where none of them tried.
    """
    strengths = sorted({c.strength for c in found.within(system, knowledge)})
    points = [(0.0, 100 * found.clean(system).uar)]
    for strength in strengths:
        inside = found.within(system, knowledge, radius=strength)
        points.append((strength, 100 * found.standing(system, inside).uar))
    return points if strengths else []


def _panels(found: Scores) -> dict[str, Lines]:
    """Return title → system and curve; a panel is left out where no defence was tried."""
    titles = {"does not know the defence": UNKNOWING, "knows the defence": KNOWING}
    if not found.defences:
        titles = {"knows the defence": KNOWING}
    panels = {}
    for title, knowledge in titles.items():
        lines = [
            (name, curve(found, name, knowledge if name != UNDEFENDED else _ALL))
            for name in found.systems
        ]
        lines = [(name, points) for name, points in lines if points]
        if {name for name, _ in lines} - ({UNDEFENDED} if found.defences else set()):
            panels[f"an attacker who {title}" if found.defences else ""] = lines
    return panels


def uar_figure(result: AuditResult, found: Scores) -> Figure | None:
    """Return UAR against ε: attackers who do not know the defence, and those who do.

    Nothing hides the undefended model, so both panels show its white-box attacks. None where
    nobody attacked.
    """
    panels = _panels(found)
    if not panels:
        return None
    figure = new_figure(3.6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    decibels = result.decibels(result.radius)
    size = f", {result.radius:g} is {decibels:.1f} dB" if decibels >= 0 else ""
    for panel, (title, lines) in zip(axes, panels.items(), strict=True):
        _draw(panel, found, lines)
        tidy(panel, title=title, x=f"ε; 0 is clean{size}")
        panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("0.", ".", 1))
    axes[0].set_ylabel("UAR (%)", fontsize=9)
    axes[0].set_ylim(bottom=0)
    most = max(axes, key=lambda panel: len(panel.get_lines()))
    legend(figure, most, columns=3 if any(len(name) > 20 for name in found.systems) else 4)
    return figure


def _draw(panel: Axes, found: Scores, lines: Lines) -> None:
    for name, points in lines:
        colour, marker = look(name, found.systems)
        panel.plot(
            *zip(*points, strict=True),
            marker=marker,
            markersize=4.5,
            linewidth=1.4,
            color=colour,
            label=name,
            clip_on=False,
        )
    panel.axhline(100 * found.chance, color="#555555", linewidth=0.9, linestyle=":", label="chance")


def picture(result: AuditResult, found: Scores) -> Picture | None:
    """Return the figure with its words; None where nobody attacked."""
    figure = uar_figure(result, found)
    if figure is None:
        return None
    sides = (
        " Left, the attacker does not know the defence; right, the attacker does."
        if len(figure.axes) > 1
        else ""
    )
    return Picture(
        "uar-over-epsilon",
        "UAR against the size of the attack",
        "At each ε stands the worst case over all attacks that stay within it, per utterance."
        f"{sides} Nothing hides the undefended model, so its line is the white-box one throughout."
        " The dotted line is chance.",
        png(figure),
    )
