"""The report of an audit: JSON for programs, one page for people, the worst case first."""

from __future__ import annotations

from servax.report.audit.result import AuditResult, Clip
from servax.report.audit.write import AuditPaths, verdict_ok, write_audit

__all__ = ["AuditPaths", "AuditResult", "Clip", "verdict_ok", "write_audit"]
