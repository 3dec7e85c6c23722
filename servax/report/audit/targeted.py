"""The table of an audit that says how often an attacker gets the class that they want."""

from __future__ import annotations

from typing import Any

from servax.report.audit.result import AuditResult
from servax.report.audit.sentences import led
from servax.report.audit.tables import HEADINGS, value_at
from servax.report.cells import Cell, Head, TextTable
from servax.report.wording import number, percentage

__all__ = ["targeted_table"]


def targeted_table(result: AuditResult) -> TextTable | None:
    """Return how often each class was reached; None where nobody tried to."""
    rows = led(result)
    if rows.empty:
        return None
    return TextTable(
        title="Led to a chosen class",
        note="Attacked is what a system gets right and what is of another class. The success rate "
        "is the share of it that comes out as the chosen class.",
        head=(
            Head("system"),
            Head("chosen class"),
            Head("knowledge"),
            Head("success rate", "%"),
            Head("attacked", "utterances"),
            Head("SNR, median", "dB"),
        ),
        rows=tuple(_row(row) for row in rows.astype(object).to_dict("records")),
        name="targeted",
        numbers=rows,
        columns_named=3,
    )


def _row(row: dict[Any, Any]) -> tuple[Cell, ...]:
    knowledge = str(row["knowledge"])
    texts = (
        str(row["defence"]),
        str(row["towards"]),
        HEADINGS.get(knowledge, knowledge),
        percentage(value_at(row, "success_rate", 100)),
        number(value_at(row, "attacked"), digits=0),
        number(value_at(row, "median_snr_db"), digits=1),
    )
    return tuple(Cell(text) for text in texts)
