"""Write the report of an audit: JSON and JUnit XML for programs, pages for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from servax.files import json_text, write_whole
from servax.report.audit.document import document
from servax.report.audit.junit import junit
from servax.report.audit.page import build
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import scores
from servax.report.audit.threshold import passes
from servax.report.write import write_content

__all__ = ["AuditPaths", "verdict_ok", "write_audit"]


@dataclass(frozen=True)
class AuditPaths:
    """Where the parts of an audit's report lie."""

    json: Path
    """``audit.json``."""
    junit: Path
    """``audit.junit.xml``."""
    markdown: Path
    """``report.md``."""
    html: Path
    """``report.html``, which needs no other file."""
    figures: tuple[Path, ...] = ()
    """The pictures that ``report.md`` shows."""
    latex: tuple[Path, ...] = ()
    """``tables/*.tex``, one tabular each."""
    csv: tuple[Path, ...] = ()
    """``tables/*.csv``, tidy numbers."""


def write_audit(result: AuditResult, folder: str | Path) -> AuditPaths:
    """Write the report of an audit into `folder`; each file appears whole or not at all.

    Everything is computed before the first file is written.

    Args:
        result: What the audit found.
        folder: Made when it does not exist; files of an earlier report are replaced.

    Raises:
        ServaxError: The records cannot be compared, oblivious results stand alone (see
            `servax.report.audit.scores.scores`), or a file cannot be written.
    """
    found, folder = scores(result), Path(folder)
    content = build(result, found)
    text = json_text(document(result, found), indent=1)
    cases = junit(result, found)
    written = write_content(content, folder)
    write_whole(folder / "audit.json", f"{text}\n".encode())
    write_whole(folder / "audit.junit.xml", cases)
    return AuditPaths(
        folder / "audit.json",
        folder / "audit.junit.xml",
        written.markdown,
        written.html,
        written.figures,
        written.latex,
        written.csv,
    )


def verdict_ok(result: AuditResult) -> bool:
    """Return whether an audit passes, for ``--fail-under``.

    It passes when no check found an error, white-box attacks were possible, and every defence (the
    bare model, where there is none) keeps what `fail_under` asks in the worst case over all attacks
    within the radius.

    Raises:
        ServaxError: See `servax.report.audit.scores.scores`.
    """
    return passes(result, scores(result))
