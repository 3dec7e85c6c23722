"""What a report says, before it is Markdown or HTML: tables of text, pictures, sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from servax.errors import SettingError
from servax.evaluation.records import Records
from servax.report import blocks, comparison_tables, text_tables, wording
from servax.report.breakdown_tables import breakdown_tables
from servax.report.cells import TextTable
from servax.report.definitions import definitions
from servax.report.examples import Examples
from servax.report.outcomes import collect
from servax.report.pictures import Picture, pictures
from servax.report.players import PlayerGroup
from servax.report.seed_table import seed_table

__all__ = ["Content", "build", "class_names"]


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
    numbers: tuple[tuple[str, pd.DataFrame], ...] = ()
    """Name and tidy numbers of CSV files that belong to no table."""
    card: tuple[tuple[str, str], ...] = ()
    """Name and value of an evaluation card; on the HTML page it stands for the header's list."""
    players: tuple[PlayerGroup, ...] = ()
    """Sounds to listen to, by recording."""
    opening: tuple[str, ...] = ()
    """The verdict for people who know no term; it stands first."""
    terms: tuple[str, ...] = ()
    """What the words of the verdict mean, before these are used."""


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
    outcomes = collect(records.frame, classes=class_names(provenance))
    main = (
        text_tables.grid_table(outcomes, provenance, beside_paper=True),
        text_tables.adaptive_table(outcomes, provenance),
        text_tables.interval_table(outcomes),
        comparison_tables.significance_table(outcomes),
        text_tables.fold_table(outcomes, provenance),
        seed_table(outcomes),
        text_tables.summary_table(outcomes),
    )
    long = (
        comparison_tables.mcnemar_table(outcomes),
        *breakdown_tables(outcomes),
        text_tables.protection_table(outcomes),
        text_tables.other_table(outcomes),
    )
    return Content(
        title=f"servax report: {outcomes.target} on {outcomes.corpus}",
        verdict=tuple(wording.verdict(outcomes)),
        header=tuple(wording.header(outcomes, provenance)),
        tables=tuple(table for table in main if table),
        appendix=tuple(table for table in long if table),
        pictures=tuple(pictures(outcomes, examples, logs)),
        definitions=tuple(definitions(outcomes, provenance)),
        numbers=(("conditions", blocks.by_condition(outcomes)),),
    )


def class_names(provenance: Mapping[str, Any]) -> Sequence[str]:
    """Return the class names in the order that the provenance gives; none where it has none."""
    classes = provenance.get("classes", ())
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else ()
