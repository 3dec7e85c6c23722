"""The tables of a report that follow Table 1, as text, with the best of a column in bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from servax.report import blocks, paper, protection, tables, wording
from servax.report.cells import Cell, Head, TextTable, rows
from servax.report.outcomes import UNDEFENDED, Condition, Outcomes
from servax.report.selection import published
from servax.report.table_one import adaptive_table, grid_table, strength_head

__all__ = [
    "Cell",
    "Head",
    "TextTable",
    "adaptive_table",
    "fold_table",
    "grid_table",
    "interval_table",
    "other_table",
    "protection_table",
    "summary_table",
]


def _heads(
    outcomes: Outcomes, provenance: Mapping[str, Any], headings: Sequence[str]
) -> tuple[Head, ...]:
    columns = blocks.oblivious(outcomes)
    heads = [strength_head(provenance, heading, columns[heading]) for heading in headings]
    return (Head("defence"), *heads)


def _defends(row: str) -> bool:
    """Return whether a row competes for the best of a column: a defence, not the bare target."""
    return row != UNDEFENDED


def interval_table(outcomes: Outcomes) -> TextTable | None:
    """Return clean, mean and adaptive UAR with intervals; None for too few speakers."""
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
        rows=rows(frame[headings], write, best=lambda heading: False),
        name="intervals",
        numbers=pd.DataFrame(
            [
                {
                    "defence": defence,
                    "column": heading,
                    "uar_percent": tables.value(frame, defence, heading),
                    "low_percent": interval.low,
                    "high_percent": interval.high,
                }
                for defence, row in found.items()
                for heading, interval in row.items()
            ]
        ),
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
        note=f"{folds} folds × seeds; the standard deviation divides by n, as the paper's.",
        head=_heads(outcomes, provenance, list(means.columns)),
        rows=rows(means.round(1), write, eligible=_defends),
        name="folds",
        numbers=tables.by_fold(outcomes),
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

    table = rows(
        told[headings].round(dict.fromkeys(headings, 2) | {"harm": 3}), write, lowest=("harm",)
    )
    return TextTable(
        title="Protection efficacy, recovery rate, harm rate",
        note=f"Mean ± population standard deviation over oblivious PGD with {span}."
        + (" In italics below a row: the paper's own averages." if published(outcomes) else ""),
        head=(
            Head("defence"),
            *(Head(f"{m}, {words}") for m in ("PE", "RR") for words in kinds.values()),
            Head("harm rate", "clean input"),
        ),
        rows=_beside_paper(outcomes, table, headings),
        name="protection",
        numbers=told.reset_index(),
    )


def _beside_paper(
    outcomes: Outcomes, table: Sequence[tuple[Cell, ...]], headings: Sequence[str]
) -> tuple[tuple[Cell, ...], ...]:
    """Return the rows with the averages of the paper's Figure 2 below those that it has."""
    found = published(outcomes)
    lines: list[tuple[Cell, ...]] = []
    for row in table:
        lines.append(row)
        if row[0].text not in found:
            continue
        averages = found[row[0].text][1]
        told = {"PE mean": averages.efficacy, "RR mean": averages.recovery}
        texts = [
            f"{told[h].mean:.3f} ± {told[h].sd:.3f}" if h in told else wording.MISSING
            for h in headings
        ]
        cells = (Cell(text, published=text != wording.MISSING) for text in texts)
        lines.append((Cell(paper.NAME, published=True), *cells))
    return tuple(lines)


def protection_table(outcomes: Outcomes) -> TextTable | None:
    """Return PE and RR by number of steps; None without PGD or a defence."""
    curve = protection.curves(outcomes)
    if curve.empty:
        return None
    told = protection.summary(outcomes)

    def pair(frame: pd.DataFrame, row: object, *columns: object) -> Cell:
        return Cell(" / ".join(wording.number(tables.value(frame, row, c)) for c in columns))

    lines = [
        (Cell(str(k)), *(pair(curve, k, (name, "PE"), (name, "RR")) for name in told.index))
        for k in curve.index
    ]
    if outcomes.adaptive_steps:
        last = [pair(told, name, "PE adaptive", "RR adaptive") for name in told.index]
        lines.append((Cell(tables.adaptive_column(outcomes)), *last))
    return TextTable(
        title="PE / RR for each number of PGD steps",
        note="Oblivious PGD of k steps; the adaptive row knows the defence.",
        head=(Head("k"), *(Head(str(name)) for name in told.index)),
        rows=tuple(lines),
        name="figure-2",
        numbers=protection.figure_2(outcomes),
    )


def other_table(outcomes: Outcomes) -> TextTable | None:
    """Return what no other table shows; None when there is nothing."""
    frame = tables.other_attacks(outcomes, told=_known(outcomes))
    if frame.columns.empty:
        return None
    return TextTable(
        title="UAR (%) in all other conditions that were measured",
        note="Columns: attack, strength and what the attacker knows.",
        head=(Head("defence"), *(Head(str(name)) for name in frame.columns)),
        rows=rows(
            frame.round(1),
            lambda defence, heading, value: wording.percentage(value),
            eligible=_defends,
        ),
        name="other-conditions",
    )


def _known(outcomes: Outcomes) -> set[tuple[str, Condition]]:
    """Return what the block of the adaptive attacker shows."""
    columns = blocks.adaptive(outcomes).values()
    return {
        (defence, condition)
        for defence in outcomes.defences
        for column in columns
        for condition in column.conditions(outcomes, defence)
        if condition is not None
    }
