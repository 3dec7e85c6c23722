"""The report of an audit: JSON and JUnit XML for programs, one page for people."""

from __future__ import annotations

from servax.report.audit.result import MEASURES, AuditResult, Clip, Measure
from servax.report.audit.scores import Scores, Standing, below, parsed, scores, untrusted
from servax.report.audit.sentences import summary, verdict
from servax.report.audit.tables import main_table
from servax.report.audit.write import (
    AuditPaths,
    document,
    junit,
    read_results,
    verdict_ok,
    write_audit,
)

__all__ = [
    "MEASURES",
    "AuditPaths",
    "AuditResult",
    "Clip",
    "Measure",
    "Scores",
    "Standing",
    "below",
    "document",
    "junit",
    "main_table",
    "parsed",
    "read_results",
    "scores",
    "summary",
    "untrusted",
    "verdict",
    "verdict_ok",
    "write_audit",
]
