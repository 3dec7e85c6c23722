"""What an audit of a model that answers in numbers found, as pages and files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from servax.errors import PathError
from servax.evaluation.checks import Finding
from servax.evaluation.records import UNDEFENDED, WORST_CASE
from servax.evaluation.regression import CONDITION, measured
from servax.evaluation.statistics import no_interval
from servax.files import json_text, write_whole
from servax.perturbation import ratio_of
from servax.report.rendering import Prose, Report, ReportPaths, write
from servax.report.tables import Field, Head, Row, Table, listing, number, short

ANSWERS = "records/answers.parquet"
OWN_ANSWERS = (
    "The corpus does not say what is true: what the bare model answers without attack stands in "
    "its place, so errors say how far an attacker moves answers, not how good they were."
)
LEFT_OUT = (
    "An attacker who does not know the defence (oblivious) attacks the bare model, and all "
    "defences answer to the same inputs.",
    "The worst case takes of each utterance the answer of largest error over all attacks.",
    "Most sanity checks of other audits look at classes, and were not made.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RegressionResult:
    """All that the report is made of."""

    answers: pd.DataFrame
    """Rows of `servax.evaluation.regression.Spoken.rows`, of all systems and conditions."""
    dimensions: tuple[str, ...]
    """Names of what the model answers."""
    own: bool
    """Whether the bare model's own answers stand for the truth."""
    corpus: str
    """Its name."""
    findings: tuple[Finding, ...]
    """Of the sanity checks."""
    provenance: Mapping[str, Any]
    """Command, commit, machine."""
    sources: Mapping[str, str]
    """Where each system and surrogate came from, by name."""
    settings: Mapping[str, Any]
    """Of the audit."""

    @classmethod
    def read(cls, folder: Path, told: Mapping[str, Any]) -> RegressionResult:
        """Return what `write` left.

        Args:
            folder: Of the audit.
            told: Its ``report/audit.json``.

        Raises:
            KeyError, TypeError: `told` is not of this version.
            ServaxError: The answers cannot be read.
        """
        source = folder / ANSWERS
        try:
            answers = pd.read_parquet(source)
        except (OSError, ValueError) as error:
            raise PathError(source, "cannot be read; expected the answers of an audit") from error
        missing = {*CONDITION, "utterance", "speaker", *told["dimensions"]}.difference(answers)
        if missing:
            raise PathError(source, f"lacks the columns {', '.join(sorted(missing))}")
        return cls(
            answers=answers,
            dimensions=tuple(told["dimensions"]),
            own=told["own answers stand for the truth"],
            corpus=told["corpus"],
            findings=tuple(Finding(**each) for each in told["findings"]),
            provenance=told["provenance"],
            sources=told["sources"],
            settings=told["settings"],
        )

    def write(self, folder: Path) -> ReportPaths:
        """Write the answers and, beside them, the report; each file appears whole or not at all."""
        written = io.BytesIO()
        self.answers.to_parquet(written, index=False)
        write_whole(folder / ANSWERS, written.getvalue())
        return self.write_report(folder / "report", folder.name)

    def write_report(self, folder: str | Path, name: str) -> ReportPaths:
        """Write the report alone; `name` is that of the audit."""
        return write(self.report(name), Path(folder))

    @cached_property
    def measures(self) -> pd.DataFrame:
        """Squared error and concordance of each condition (`measured`)."""
        return measured(self.answers, self.dimensions)

    @property
    def errors(self) -> int:
        """How many checks found an error."""
        return sum(each.severity == "error" for each in self.findings)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, in words."""
        bare = self.measures[self.measures["defence"] == UNDEFENDED]
        errors = dict(zip(bare["attack"], bare["squared error"], strict=True))
        clean, worst = (number(errors[name], digits=4) for name in ("none", WORST_CASE))
        few = no_interval(self.answers["speaker"].nunique())
        return (
            f"Without attack the squared error of the bare model is {clean}, under the worst of "
            f"all attacks {worst}.",
            *([OWN_ANSWERS] if self.own else []),
            *([few] if few else []),
            *(e.statement for e in self.findings if e.severity in ("error", "warning")),
        )

    def document(self) -> dict[str, Any]:
        """Return the report for programs, a JSON object."""
        return {
            "regression": True,
            "corpus": self.corpus,
            "dimensions": list(self.dimensions),
            "own answers stand for the truth": self.own,
            "measures": self.measures.to_dict("records"),
            "findings": [each.to_json() for each in self.findings],
            "provenance": dict(self.provenance),
            "sources": dict(self.sources),
            "settings": dict(self.settings),
        }

    def report(self, name: str) -> Report:
        """Return the pages; `name` is that of the audit."""
        table = self.table()
        told = {key: str(value) for key, value in self.provenance.items()} | dict(self.sources)
        told |= {"settings": json_text(self.settings, indent=None)}
        return Report(
            title=f"servax audit: {name} on {self.corpus}",
            findings=self.sentences,
            provenance=tuple(told.items()),
            sections=(table, Prose("What stands here, and what does not", LEFT_OUT)),
            first=(table.place,),
            files={"audit.json": json_text(self.document())},
        )

    def table(self) -> Table:
        """Return squared error and concordance of each condition."""
        found = self.measures
        by_ratio = self.settings["budget"]["norm"] == "snr"

        def strength(row: Row) -> str:
            if row["attack"] in ("none", WORST_CASE):
                return ""
            size = row["strength"]
            return f"{ratio_of(size):.4g} dB" if by_ratio else short(size)

        def value(name: str, *, ends: bool = False) -> Field:
            def text(row: Row) -> str:
                middle = number(row[name], digits=4)
                if not ends or np.isnan(row[f"{name}, low"]):
                    return middle
                low, high = (number(row[f"{name}, {end}"], digits=4) for end in ("low", "high"))
                return f"{middle} ({low} to {high})"

            return Field(Head(name), text)

        return listing(
            found,
            [
                Field(Head("system"), lambda row: str(row["defence"])),
                Field(Head("attack"), lambda row: str(row["attack"])),
                Field(Head("attacker"), lambda row: str(row["knowledge"]).replace("_", " ")),
                Field(Head("size"), strength),
                value("squared error", ends=True),
                *(value(f"CCC {name}", ends=True) for name in self.dimensions),
                *(value(f"moved {name}") for name in self.dimensions),
            ],
            title="Squared error and concordance",
            note="CCC is the concordance correlation coefficient (Lin 1989): 1 where answers and "
            "truth agree, 0 where they have nothing in common. Moved is the mean way from the "
            "answers without attack; an attack towards a dimension pushes that one up or down. "
            "In brackets 95 % over speakers, from five speakers on.",
            name="regression",
            columns_named=4,
        )
