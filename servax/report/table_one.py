"""Table 1 as text: the paper's layout, the paper's own rows beside ours, and the adaptive block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from servax.report import blocks, paper, tables, wording
from servax.report.blocks import Column
from servax.report.cells import Cell, Head, TextTable, best_of
from servax.report.outcomes import UNDEFENDED, Outcomes
from servax.report.units import units_of

__all__ = ["adaptive_table", "grid_table", "strength_head"]

_KEPT = " kept"
"""Ends the heading of a mean's share of the clean UAR."""


def grid_table(
    outcomes: Outcomes, provenance: Mapping[str, Any], *, beside_paper: bool = False
) -> TextTable:
    """Return Table 1: the attacker who knows only the bare target, and the strictest adaptive PGD.

    Args:
        outcomes: Predictions.
        provenance: Says what ε is in dB.
        beside_paper: Whether the paper's row stands below each of ours that it has.
    """
    note = "FGSM and PGD know only the bare target" + (
        "; the last column knows the defence too." if outcomes.adaptive_steps else "."
    )
    columns = blocks.oblivious(outcomes)
    return _table(
        outcomes,
        provenance,
        columns,
        beside_paper=beside_paper and not set(paper.TABLE_1).isdisjoint(outcomes.defences),
        title="UAR (%) under attack",
        note=f"{note} {_rules(columns)}",
        name="table-1",
    )


def adaptive_table(outcomes: Outcomes, provenance: Mapping[str, Any]) -> TextTable | None:
    """Return the same for the attacker who knows the defence.

    None where the records hold nothing but the last adaptive PGD, the last column of `grid_table`.
    """
    columns = blocks.adaptive(outcomes)
    if not columns:
        return None
    return _table(
        outcomes,
        provenance,
        columns,
        beside_paper=False,
        title="UAR (%) under attack by one who knows the defence (adaptive)",
        note="FGSM and PGD take gradients through the defence itself; † marks a defence without "
        f"useful gradients, which pass it unchanged (BPDA). {_rules(columns)}",
        name="table-1-adaptive",
    )


def _rules(columns: Mapping[str, Column]) -> str:
    means = any(heading.endswith("mean") for heading in columns)
    spread = (
        "A mean stands with the population standard deviation over its intensities, and with the "
        "share of the undefended target's clean UAR that it keeps. "
    )
    return f"{spread if means else ''}Bold: the best defence of a column."


def strength_head(provenance: Mapping[str, Any], heading: str, column: Column) -> Head:
    """Return a heading, for one ε of FGSM with its size in dB and z-scores."""
    single = column.attack == "fgsm" and not column.is_mean and not heading.endswith("mean")
    return Head(heading, units_of(provenance).told(column.strengths[0]) if single else "")


def _table(
    outcomes: Outcomes,
    provenance: Mapping[str, Any],
    columns: Mapping[str, Column],
    *,
    beside_paper: bool,
    title: str,
    note: str,
    name: str,
) -> TextTable:
    told = blocks.measure(outcomes, columns)
    uars = blocks.wide(told, "uar_percent")
    best = _best(uars)
    head = [Head("defence")]
    for heading, column in columns.items():
        head.append(strength_head(provenance, heading, column))
        if heading.endswith("mean"):
            head.append(Head(heading.replace(" mean", _KEPT), "of clean"))
    rows = []
    for defence in outcomes.defences:
        part = told[told["defence"] == defence].set_index("column")
        rows.append((Cell(defence), *_cells(part, best)))
        if beside_paper and part["paper_uar_percent"].notna().any():
            rows.append((Cell(paper.NAME, published=True), *_published(part)))
    if beside_paper:
        note += (
            f" In italics below a row: the same row of the paper (clean UAR {paper.CLEAN_UAR}); "
            "the corpora differ, so compare the shares kept."
        )
    measured = told[told["uar_percent"].notna() | told["paper_uar_percent"].notna()]
    return TextTable(title, note, tuple(head), tuple(rows), name=name, numbers=measured)


def _best(uars: pd.DataFrame) -> dict[tuple[str, str], bool]:
    """Return (defence, heading) → whether it is the best defence there, as printed.

    As in the paper, only defences compete: the undefended target on clean input is what they are
    measured against.
    """
    names = [str(name) for name in uars.index]
    found: dict[tuple[str, str], bool] = {}
    for heading in map(str, uars.columns):
        values = [round(tables.value(uars, name, heading), 1) for name in names]
        flags = best_of(values, [name != UNDEFENDED for name in names])
        found.update(zip([(name, heading) for name in names], flags, strict=True))
    return found


def _cells(part: pd.DataFrame, best: Mapping[tuple[str, str], bool]) -> list[Cell]:
    """Return the entries of one of our rows."""
    cells = []
    for heading in map(str, part.index):
        uar = tables.value(part, heading, "uar_percent")
        spread = tables.value(part, heading, "sd_over_intensities_percent")
        dagger = " †" if "bpda" in str(part.loc[heading, "knowledge"]) else ""
        text = _with_spread(wording.percentage(uar), wording.percentage(spread)) + dagger
        cells.append(Cell(text, best[str(part["defence"].iloc[0]), heading]))
        if heading.endswith("mean"):
            share = tables.value(part, heading, "over_clean")
            cells.append(Cell(wording.percentage(100 * share)))
    return cells


def _published(part: pd.DataFrame) -> list[Cell]:
    """Return the entries of the paper's row, with its two decimals."""
    cells = []
    for heading in map(str, part.index):
        uar = tables.value(part, heading, "paper_uar_percent")
        spread = tables.value(part, heading, "paper_sd_over_intensities_percent")
        text = _with_spread(wording.number(uar), wording.number(spread))
        cells.append(_from_paper(text))
        if heading.endswith("mean"):
            share = tables.value(part, heading, "paper_over_clean")
            cells.append(_from_paper(wording.percentage(100 * share)))
    return cells


def _from_paper(text: str) -> Cell:
    return Cell(text, published=text != wording.MISSING)


def _with_spread(value: str, spread: str) -> str:
    missing = wording.MISSING in (value, spread)
    return value if missing else f"{value} ± {spread}"
