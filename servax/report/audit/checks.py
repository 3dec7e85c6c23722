"""The sanity checks of an audit as a table, the worst first, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from servax.evaluation.checks import SEVERITIES, Finding
from servax.report.audit.plain import plain
from servax.report.audit.tables import ROWS_IN_SIGHT
from servax.report.cells import Cell, Head, TextTable

__all__ = ["checks_table", "worst_first"]

_EVIDENCE_CHARACTERS = 700
"""So much evidence is printed; `audit.json` has all."""


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings, errors first; those of one severity keep their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def checks_table(findings: Sequence[Finding]) -> TextTable | None:
    """Return a row per finding; None where no check was run."""
    if not findings:
        return None
    return TextTable(
        title="Sanity checks",
        note="An error: the numbers cannot be trusted. A warning: they flatter, or may.",
        head=tuple(map(Head, ("check", "severity", "finding", "system"))),
        rows=tuple(
            (
                Cell(finding.check.replace("-", " ")),
                Cell(finding.severity.replace("-", " "), mark=finding.severity),
                Cell(finding.statement, detail=_evidence(finding)),
                Cell(finding.subject),
            )
            for finding in worst_first(findings)
        ),
        name="checks",
        prose=True,
        tall=len(findings) > ROWS_IN_SIGHT,
    )


def _evidence(finding: Finding) -> str:
    if not finding.evidence:
        return ""
    told = plain(finding.evidence)
    if len(told) <= _EVIDENCE_CHARACTERS:
        return told
    return f"{told[:_EVIDENCE_CHARACTERS].rsplit(' ', 1)[0]} … (all of it is in audit.json)"
