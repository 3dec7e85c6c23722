"""The tables of a report as text: headings, formatted cells, the best of a column in bold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from servax.report import protection, tables, wording
from servax.report.outcomes import Condition, Outcomes

__all__ = [
    "Cell",
    "Head",
    "TextTable",
    "fold_table",
    "grid_table",
    "interval_table",
    "other_table",
    "protection_table",
    "summary_table",
]


class Head(NamedTuple):
    """Heading of a column, with a second line in small type."""

    text: str
    detail: str = ""


class Cell(NamedTuple):
    """One entry of a table."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed."""

    title: str
    """Heading."""
    note: str
    """A sentence below the heading; may be empty."""
    head: tuple[Head, ...]
    """One per column, the first over the row names."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells by row; the first names the row."""


def _rows(
    frame: pd.DataFrame,
    write: Callable[[str, str, float], str],
    *,
    best: Callable[[str], bool] = lambda heading: True,
    lowest: Sequence[str] = (),
) -> tuple[tuple[Cell, ...], ...]:
    """Return cells, bold where a column has its best; `frame` is rounded as it is printed."""
    texts = {
        heading: [
            write(str(row), heading, tables.value(frame, row, heading)) for row in frame.index
        ]
        for heading in map(str, frame.columns)
    }
    bold = {}
    for heading in texts:
        values = frame[heading].to_numpy(dtype=np.float64)
        measured = values[np.isfinite(values)]
        # One row, or rows that all read the same, have no best.
        differ = best(heading) and np.unique(measured).size > 1
        top = (measured.min() if heading in lowest else measured.max()) if differ else np.nan
        bold[heading] = [bool(value == top) for value in values]
    return tuple(
        (Cell(str(row)), *(Cell(texts[h][i], bold[h][i]) for h in texts))
        for i, row in enumerate(frame.index)
    )


def _heads(
    outcomes: Outcomes, provenance: Mapping[str, Any], headings: Sequence[str]
) -> tuple[Head, ...]:
    columns = tables.grid_columns(outcomes)
    heads = [Head("defence")]
    for heading in headings:
        found: Sequence[Condition] = columns.get(heading, ())
        fgsm = len(found) == 1 and found[0].attack == "fgsm"
        heads.append(Head(heading, wording.db_of(provenance, found[0].strength) if fgsm else ""))
    return tuple(heads)


def _dagger(outcomes: Outcomes, defence: str, heading: str) -> str:
    condition = outcomes.adaptive(defence) if heading.startswith("adaptive") else None
    return " †" if condition is not None and condition.knowledge == "bpda" else ""


def grid_table(outcomes: Outcomes, provenance: Mapping[str, Any]) -> TextTable:
    """Return the Table-1 grid."""
    frame = tables.grid(outcomes)

    def write(defence: str, heading: str, value: float) -> str:
        return wording.percentage(value) + _dagger(outcomes, defence, heading)

    return TextTable(
        title="UAR (%) under attack",
        note="FGSM and PGD know only the bare target"
        + ("; the last column knows the defence too." if outcomes.adaptive_steps else "."),
        head=_heads(outcomes, provenance, list(frame.columns)),
        rows=_rows(frame.round(1), write),
    )


def interval_table(outcomes: Outcomes) -> TextTable | None:
    """Return clean, mean and adaptive UAR with intervals; None for a single speaker."""
    found = tables.intervals(outcomes)
    if not found:
        return None
    frame = tables.grid(outcomes)
    headings = [h for h in frame.columns if any(h in row for row in found.values())]

    def write(defence: str, heading: str, value: float) -> str:
        interval = found[defence].get(heading)
        if interval is None:
            return wording.MISSING
        low, high = wording.percentage(interval.low), wording.percentage(interval.high)
        return f"{wording.percentage(value)} [{low}, {high}]"

    speakers = len(set(outcomes.speakers.tolist()))
    return TextTable(
        title="UAR (%) with 95 % intervals over speakers",
        note=f"Speakers are resampled, not utterances; there are {speakers} of them.",
        head=(Head("defence"), *map(Head, headings)),
        rows=_rows(frame[headings], write, best=lambda heading: False),
    )


def fold_table(outcomes: Outcomes, provenance: Mapping[str, Any]) -> TextTable | None:
    """Return the grid as mean ± sd over folds; None for a single fold."""
    folds = len(set(outcomes.folds.tolist()))
    if folds < 2:
        return None
    means, spreads = tables.fold_tables(outcomes)

    def write(defence: str, heading: str, value: float) -> str:
        spread = wording.percentage(tables.value(spreads, defence, heading))
        return wording.MISSING if np.isnan(value) else f"{wording.percentage(value)} ± {spread}"

    return TextTable(
        title="UAR (%), mean ± standard deviation over folds",
        note=f"{folds} folds × seeds; the standard deviation divides by n − 1.",
        head=_heads(outcomes, provenance, list(means.columns)),
        rows=_rows(means.round(1), write),
    )


def summary_table(outcomes: Outcomes) -> TextTable | None:
    """Return PE, RR and harm rate by defence; None without a defence."""
    told = protection.summary(outcomes)
    if told.empty:
        return None
    kinds = {"mean": "PGD mean"}
    if outcomes.adaptive_steps:
        kinds["adaptive"] = tables.adaptive_column(outcomes)
    strengths = [c.strength for c in outcomes.conditions("pgd")]
    span = f"k = {min(strengths):g} … {max(strengths):g}" if strengths else "not measured"
    headings = [*(f"{measure} {kind}" for measure in ("PE", "RR") for kind in kinds), "harm"]

    def write(defence: str, heading: str, value: float) -> str:
        if heading == "harm":
            return wording.percent_sign(100 * value)
        spread = tables.value(told, defence, heading.replace("mean", "sd"))
        text = wording.number(value)
        return f"{text} ± {wording.number(spread)}" if "mean" in heading else text

    return TextTable(
        title="Protection efficacy, recovery rate, harm rate",
        note=f"Mean ± population standard deviation over oblivious PGD with {span}.",
        head=(
            Head("defence"),
            *(Head(f"{m}, {words}") for m in ("PE", "RR") for words in kinds.values()),
            Head("harm rate", "clean input"),
        ),
        rows=_rows(
            told[headings].round(dict.fromkeys(headings, 2) | {"harm": 3}), write, lowest=("harm",)
        ),
    )


def protection_table(outcomes: Outcomes) -> TextTable | None:
    """Return PE and RR by number of steps; None without PGD or a defence."""
    curve = protection.curves(outcomes)
    if curve.empty:
        return None
    told = protection.summary(outcomes)

    def pair(frame: pd.DataFrame, row: object, *columns: object) -> Cell:
        return Cell(" / ".join(wording.number(tables.value(frame, row, c)) for c in columns))

    rows = [
        (Cell(str(k)), *(pair(curve, k, (name, "PE"), (name, "RR")) for name in told.index))
        for k in curve.index
    ]
    if outcomes.adaptive_steps:
        last = [pair(told, name, "PE adaptive", "RR adaptive") for name in told.index]
        rows.append((Cell(tables.adaptive_column(outcomes)), *last))
    return TextTable(
        title="PE / RR for each number of PGD steps",
        note="Oblivious PGD of k steps; the adaptive row knows the defence.",
        head=(Head("k"), *(Head(str(name)) for name in told.index)),
        rows=tuple(rows),
    )


def other_table(outcomes: Outcomes) -> TextTable | None:
    """Return what no other table shows; None when there is nothing."""
    frame = tables.other_attacks(outcomes)
    if frame.columns.empty:
        return None
    return TextTable(
        title="UAR (%) in all other conditions that were measured",
        note="Columns: attack, strength and what the attacker knows.",
        head=(Head("defence"), *(Head(str(name)) for name in frame.columns)),
        rows=_rows(frame.round(1), lambda defence, heading, value: wording.percentage(value)),
    )
