"""The table of an audit that says whether a defence notices an attack."""

from __future__ import annotations

from typing import Any

from servax.report.audit.result import AuditResult
from servax.report.audit.tables import HEADINGS, value_at
from servax.report.cells import Cell, Head, TextTable
from servax.report.wording import number, percentage

__all__ = ["detection_table"]

SCORES = {"residual": "change of the input", "l1": "change of the probabilities"}
"""What a detector looks at, by the name of its score."""


def detection_table(result: AuditResult) -> TextTable | None:
    """Return how well the defences notice attacks; None where none makes a detector."""
    table = result.detection
    if table is None or table.empty:
        return None
    heads = (
        Head("system"),
        Head("attack"),
        Head("knowledge"),
        Head("score"),
        Head("ROC area"),
        Head("detected", "% at 5 % false alarms"),
        Head("utterances", "attacked"),
    )
    return TextTable(
        title="Detection: does the defence notice the attack?",
        note="A detector flags what the defence changes much: clean speech should pass it nearly "
        "as it was. Its score is the mean change of the input, or how far the probabilities of "
        "the bare model move (L1). The area is the chance that an attacked input scores above a "
        "clean one, .5 for a detector that guesses. No attacker here tries to fool the detector "
        "too, not even the adaptive one, so these figures are upper bounds.",
        head=heads,
        rows=tuple(_row(row) for row in table.astype(object).to_dict("records")),
        name="detection",
        numbers=table,
        columns_named=4,
    )


def _row(row: dict[Any, Any]) -> tuple[Cell, ...]:
    score, knowledge = str(row["score"]), str(row["knowledge"])
    texts = (
        str(row["defence"]),
        str(row["attack"]),
        HEADINGS.get(knowledge, knowledge),
        SCORES.get(score, score),
        number(value_at(row, "area"), digits=3),
        percentage(value_at(row, "detected_at_5_percent", 100)),
        str(int(row["utterances"])),
    )
    return tuple(Cell(text) for text in texts)
