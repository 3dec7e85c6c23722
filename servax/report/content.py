"""What a report says, before it is Markdown or HTML: tables of text, pictures, sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servax.errors import SettingError
from servax.evaluation.records import Records
from servax.report import text_tables, wording
from servax.report.examples import Examples
from servax.report.outcomes import collect
from servax.report.pictures import Picture, pictures
from servax.report.text_tables import TextTable

__all__ = ["Content", "build"]


@dataclass(frozen=True)
class Content:
    """All of a report."""

    title: str
    """Heading of the whole."""
    verdict: tuple[str, ...]
    """Findings; the first sentence says what the adaptive attacker leaves."""
    header: tuple[tuple[str, str], ...]
    """Name and value of what the numbers come from."""
    tables: tuple[TextTable, ...]
    """Main tables, in order."""
    appendix: tuple[TextTable, ...]
    """Long tables for the end."""
    pictures: tuple[Picture, ...]
    """Figures, in order."""
    definitions: tuple[str, ...]
    """What the words mean."""


def build(records: Records, *, examples: Examples | None, logs: Mapping[str, Path]) -> Content:
    """Return the content of a report.

    Args:
        records: the only source of every number.
        examples: an utterance for the spectrogram figure, or None to leave it out.
        logs: name → training log (JSON lines), one figure each.

    Raises:
        ServaxError: the records cannot be compared (`servax.report.outcomes.collect`) or a log
            cannot be read.
        SettingError: the name of a log is not fit for a file name.
    """
    for name in logs:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise SettingError("the name of a log", name, "letters, digits, '_', '-' and '.'")
    provenance = records.provenance
    outcomes = collect(records.frame, classes=_classes(provenance))
    main = (
        text_tables.grid_table(outcomes, provenance),
        text_tables.interval_table(outcomes),
        text_tables.fold_table(outcomes, provenance),
        text_tables.summary_table(outcomes),
    )
    long = (text_tables.protection_table(outcomes), text_tables.other_table(outcomes))
    return Content(
        title=f"servax report: {outcomes.target} on {outcomes.corpus}",
        verdict=tuple(wording.verdict(outcomes)),
        header=tuple(wording.header(outcomes, provenance)),
        tables=tuple(table for table in main if table),
        appendix=tuple(table for table in long if table),
        pictures=tuple(pictures(outcomes, examples, logs)),
        definitions=tuple(wording.definitions(outcomes)),
    )


def _classes(provenance: Mapping[str, Any]) -> Sequence[str]:
    classes = provenance.get("classes", ())
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else ()
