"""The sentences of a report, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from servax.report import paper, tables
from servax.report.outcomes import UNDEFENDED, Outcomes

__all__ = ["header", "number", "percentage", "setting", "signed", "verdict"]

NOT_RECORDED = "not recorded"
MISSING = "–"

_HEADER = {
    "command": "command",
    "recipe": "recipe",
    "machine": "machine",
    "commit": "commit",
    "fold_hash": "fold hash",
    "versions": "versions",
    "servax": "servax",
    "scheme": "label scheme",
    "scale": "scale",
    "attacks": "attack settings",
}
_ALWAYS = ("command", "machine", "commit", "fold_hash", "versions")
_FROM_ROWS = ("corpus", "classes", "seed", "seeds", "target")


def number(value: float, *, digits: int = 2) -> str:
    """Return a number with a true minus sign, or a dash when it is not defined."""
    if math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}".replace("-", "−")
    return text[1:] if text.startswith("−") and not float(text[1:]) else text


def percentage(value: float) -> str:
    """Return a percentage with one decimal and without its sign, or a dash."""
    return number(value, digits=1)


def signed(value: float) -> str:
    """Return a difference with one decimal and its sign, or a dash."""
    text = percentage(value)
    return f"+{text}" if text != MISSING and not text.startswith("−") and float(text) else text


def percent_sign(value: float) -> str:
    """Return ``59.7 %`` held together by a no-break space, or a dash."""
    return MISSING if math.isnan(value) else f"{percentage(value)}\N{NO-BREAK SPACE}%"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def setting(value: Any) -> str:
    """Return a provenance value as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_nested(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(setting(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _nested(value: Any) -> str:
    return f"({setting(value)})" if isinstance(value, Mapping) else setting(value)


def header(outcomes: Outcomes, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of all that says where the numbers come from."""
    rows = [
        (
            "corpus",
            f"{outcomes.corpus}: {len(outcomes.labels)} utterances"
            f"{' × seeds' if len(outcomes.seeds) > 1 else ''} of "
            f"{len(set(outcomes.speakers.tolist()))} held-out speakers, "
            f"classes {', '.join(outcomes.classes)}",
        ),
        ("target", outcomes.target),
        ("folds × seeds", f"{len(set(outcomes.folds.tolist()))} (pooled)"),
        ("seeds", ", ".join(map(str, outcomes.seeds))),
    ]
    for name, title in _HEADER.items():
        if name in provenance or name in _ALWAYS:
            rows.append((title, setting(provenance.get(name, NOT_RECORDED)) or NOT_RECORDED))
    # The whole recipe stays in the table's provenance; printed, it would bury everything else.
    known = {*_HEADER, *_FROM_ROWS, "settings"}
    rest = [(name, setting(value)) for name, value in provenance.items() if name not in known]
    return rows + rest


def verdict(outcomes: Outcomes) -> list[str]:
    """Return the findings in sentences; the first says what the adaptive attacker leaves."""
    table = tables.grid(outcomes)
    adaptive = tables.adaptive_column(outcomes)
    chance = percent_sign(100 / len(outcomes.classes))
    vaccines = [name for name in table.index if name.startswith("ssad")]
    defences = vaccines or [name for name in table.index if name != UNDEFENDED]
    attacked = [
        name for name in defences if adaptive in table and tables.value(table, name, adaptive) >= 0
    ]
    if not attacked:
        return [
            "No defence was attacked adaptively, so this report says nothing about protection; "
            f"the undefended target has a clean UAR of {_value(table, UNDEFENDED, 'clean')} "
            f"(chance {chance})."
        ]
    left = [
        f"{name} a UAR of {_value(table, name, adaptive)} "
        f"(of {_value(table, name, 'clean')} on clean input)"
        for name in attacked
    ]
    sentences = [
        "An attacker who knows the defence and takes gradients through it "
        f"({adaptive.removeprefix('adaptive ')}) leaves {_listed(left)}; chance is {chance}."
    ]
    return sentences + _oblivious(table, defences)


def _oblivious(table: pd.DataFrame, defences: Sequence[str]) -> list[str]:
    means = [heading for heading in ("FGSM mean", "PGD mean") if heading in table]
    if not means:
        return []

    def told(name: str) -> str:
        return _listed([f"{_value(table, name, h)} ({h})" for h in means])

    kept = [f"{name} {told(name)}" for name in defences]
    sentences = [
        "An attacker who knows only the bare target (oblivious, the paper's threat model) leaves "
        f"{_listed(kept)}; without a defence it leaves {told(UNDEFENDED)}, of "
        f"{_value(table, UNDEFENDED, 'clean')} on clean input."
    ]
    controls = {
        name: sum(tables.value(table, name, heading) for heading in means)
        for name in table.index
        if name not in (UNDEFENDED, *defences)
    }
    controls = {name: total for name, total in controls.items() if not math.isnan(total)}
    if controls:
        best = max(controls, key=lambda name: controls[name])
        sentences.append(f"The best other defence, {best}, keeps {told(best)}.")
    return sentences + _beside_paper(table)


def _beside_paper(table: pd.DataFrame) -> list[str]:
    """Return how much of the clean UAR SSAD keeps, here and in the paper."""
    row, clean = paper.TABLE_1["ssad"], "clean"
    means = [(a, f"{a.upper()} mean") for a in ("fgsm", "pgd") if f"{a.upper()} mean" in table]
    if "ssad" not in table.index or not tables.value(table, UNDEFENDED, clean):
        return []
    told = []
    for attack, heading in means:
        share = tables.value(table, "ssad", heading) / tables.value(table, UNDEFENDED, clean)
        if not math.isnan(share):
            theirs = row.over(attack).mean / paper.CLEAN_UAR
            told.append(
                f"{percent_sign(100 * share)} under {attack.upper()} "
                f"(in the paper, on IEMOCAP, {percent_sign(100 * theirs)})"
            )
    keeps = "Of the undefended target's clean UAR, ssad keeps on average"
    return [f"{keeps} {_listed(told)}."] if told else []


def _value(table: pd.DataFrame, name: str, heading: str) -> str:
    return percent_sign(tables.value(table, name, heading))
