"""The pages of an audit, before they are Markdown or HTML."""

from __future__ import annotations

from servax.report.audit.card import card_rows, facts
from servax.report.audit.checks import checks_table
from servax.report.audit.curves import picture
from servax.report.audit.definitions import definitions, terms
from servax.report.audit.detection import detection_table
from servax.report.audit.players import groups
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import Scores
from servax.report.audit.sentences import verdict
from servax.report.audit.summary import summary
from servax.report.audit.tables import attack_table, main_table, realisability_table
from servax.report.audit.targeted import targeted_table
from servax.report.content import Content

__all__ = ["build"]


def build(result: AuditResult, found: Scores) -> Content:
    """Return all that the pages say, in their order."""
    tables = (
        main_table(result, found),
        attack_table(result, found),
        targeted_table(result),
        checks_table(result.findings),
        realisability_table(result),
        detection_table(result),
    )
    curves = picture(result, found)
    return Content(
        title=title(found),
        verdict=tuple(verdict(result, found)),
        header=tuple(facts(result.card)),
        tables=tuple(table for table in tables if table),
        appendix=(),
        pictures=(curves,) if curves else (),
        definitions=tuple(definitions(found)),
        card=tuple(card_rows(result.card)),
        players=tuple(groups(result.clips)),
        opening=tuple(summary(result, found)),
        terms=tuple(terms(result, found)),
    )


def title(found: Scores) -> str:
    """Return the heading of the whole."""
    return f"servax audit: {found.outcomes.target} on {found.outcomes.corpus}"
