"""The report of an audit: JSON and JUnit XML for programs, one page for people."""

from __future__ import annotations

from servax.report.audit.result import AuditResult, Clip, Measure
from servax.report.audit.write import AuditPaths, verdict_ok, write_audit

__all__ = ["AuditPaths", "AuditResult", "Clip", "Measure", "verdict_ok", "write_audit"]
