"""The figures of a report with their words, as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servax.report import figures
from servax.report.examples import Examples
from servax.report.figure_two import protection_curves
from servax.report.logs import curves
from servax.report.outcomes import UNDEFENDED, Outcomes
from servax.report.selection import best_of_family, drawn, drawn_protection
from servax.report.spectrograms import spectrogram_triple
from servax.report.style import png

__all__ = ["Picture", "pictures"]


@dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    name: str
    """File name without ``.png``."""
    title: str
    """Heading."""
    caption: str
    """What one sees."""
    png: bytes
    """The image."""


def pictures(
    outcomes: Outcomes, examples: Examples | None, logs: Mapping[str, Path]
) -> list[Picture]:
    """Return every figure for which there is something to show, in the order of the report.

    Raises:
        ServaxError: a log cannot be read.
    """
    defended = [name for name in outcomes.defences if name != UNDEFENDED]
    found = []
    if examples is not None:
        found.append(_spectrograms(examples))
    if outcomes.conditions("fgsm") or outcomes.conditions("pgd"):
        found.append(_uar(outcomes))
    if defended and outcomes.conditions("pgd"):
        found.append(_protection(outcomes))
    found.append(_confusion(outcomes, _confused(outcomes, defended)))
    return found + [_training(name, path) for name, path in logs.items()]


def _confused(outcomes: Outcomes, defended: list[str]) -> list[str]:
    """Return SSAD, else its best variant, else the last defence; then the best trained model."""
    own = "ssad" if "ssad" in defended else best_of_family(outcomes, "ssad")
    first = own or (defended or [UNDEFENDED])[-1]
    trained = best_of_family(outcomes, "similarity", "vanilla", "pgd-at", "trades")
    return [name for name in dict.fromkeys((first, trained)) if name is not None]


def _spectrograms(examples: Examples) -> Picture:
    return Picture(
        "spectrograms",
        "What attack and purifier do",
        "Log-Mel spectrogram of one utterance: original, attacked, purified; beside them what the "
        "attack added and in what the purified one differs from the original. Each difference has "
        "its own scale: the attack is often far smaller than what the purifier changes.",
        png(spectrogram_triple(examples)),
    )


def _uar(outcomes: Outcomes) -> Picture:
    return Picture(
        "uar",
        "UAR against the strength of the attack",
        "Left: FGSM by ε; right: PGD by steps. Lines are oblivious attacks; the tinted band "
        "shows what is left when the attacker knows the defence. The dotted line is chance."
        + _left_out(outcomes, len(drawn(outcomes))),
        png(figures.uar_curves(outcomes)),
    )


def _protection(outcomes: Outcomes) -> Picture:
    return Picture(
        "protection",
        "Protection efficacy and recovery rate",
        "Figure 2 of the paper. Above: the share of the risk that each defence takes away (PE, "
        "solid); below: the share of clean errors that come out right (RR, dashed), by steps of "
        "oblivious PGD, with 95 % bands over speakers. Beside each name: the average ± population "
        "standard deviation over all k; dotted, the paper's averages. The tinted strip shows the "
        "same under adaptive PGD." + _left_out(outcomes, len(drawn_protection(outcomes)) + 1),
        png(protection_curves(outcomes)),
    )


def _left_out(outcomes: Outcomes, shown: int) -> str:
    if shown >= len(outcomes.defences):
        return ""
    return (
        " Of many defences it shows SSAD, the best of each kind by PGD mean; the tables have all."
    )


def _confusion(outcomes: Outcomes, defences: list[str]) -> Picture:
    named = [name for name in defences if name != UNDEFENDED]
    below = f"; above without a defence, below with {', then '.join(named)}" if named else ""
    return Picture(
        "confusion",
        "Who is taken for whom",
        "Percent of each true class (row) by predicted class (column): on clean input, under "
        f"oblivious PGD, and under the strictest PGD{below}.",
        png(figures.confusion_matrices(outcomes, defences=defences)),
    )


def _training(name: str, path: Path) -> Picture:
    return Picture(
        f"training-{name}",
        f"Training of {name}",
        "Every term of the training log by epoch; dashed is the validation part.",
        png(figures.training_curves(curves(path), title=name)),
    )
