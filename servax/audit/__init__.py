"""From a model and its defences to a verdict: attack as the settings say, check, report."""

from servax.audit.run import Audited, run_audit
from servax.audit.settings import Audit, AuditSettings

__all__ = ["Audit", "AuditSettings", "Audited", "run_audit"]
