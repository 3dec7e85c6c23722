"""All findings of an audit: what the checks of models found, and what the records say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from servax.audit.settings import Audit
from servax.evaluation.checks import (
    RECORD_CHECKS,
    Finding,
    carried_out,
    knowledge_complete,
    white_box,
)
from servax.evaluation.checks.declared import Among, Needs
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import TOWARDS

EVERY_SYSTEM = "all systems"
"""Subject of a check of the records that could not be carried out."""


def findings(
    audit: Audit, frame: pd.DataFrame, probed: list[dict[str, Any]], measures: pd.DataFrame
) -> Iterator[Finding]:
    """Yield the findings, the records' first.

    Args:
        audit: Systems, utterances, settings.
        frame: The records of the audit.
        probed: Findings of the checks of models, as JSON.
        measures: One row per threat and system, with the draws of each gradient.
    """
    for system in audit.systems:
        yield white_box(system, audit.subject, audit.settings.knowledge)
    yield from _on_records(audit, frame, measures)
    for told in probed:
        yield Finding(**told)


def _on_records(audit: Audit, frame: pd.DataFrame, measures: pd.DataFrame) -> Iterator[Finding]:
    """Yield what the checks of the records find that this audit allows."""
    radius, known = audit.settings.budget.radius, audit.settings.knowledge
    there: set[Needs] = {"nothing"}
    if "adaptive" in known and any(system.gradients for system in audit.systems):
        there.add("white-box")
    if audit.defences and audit.subject.gradients:
        there.add("defences")
    # The attack on the sound has a ball of another kind: its strength compares with no radius.
    # One that leads to a chosen class leaves that class alone, and need not do as much as noise.
    same = frame[~frame["attack"].str.startswith(("pgd-waveform", TOWARDS))]
    # Below the radius the only attacker with gradients may be FGSM, which proves nothing.
    full = same[np.isclose(same["strength"], radius) | (same["attack"] == "none")]
    rows: dict[Among, pd.DataFrame] = {"all": frame, "one ball": same, "one size": full}
    draws = measures.groupby("defence")["draws"].max()
    random = {str(name): int(most) for name, most in draws.items() if most > 1}
    for check in RECORD_CHECKS:
        if check.needs in there:
            settings = {"eot_draws": random} if check is knowledge_complete else {}
            run = partial(check, rows[check.among], **settings)
            for each in carried_out(check.name, EVERY_SYSTEM, run):
                yield _excused(audit, each) if check is knowledge_complete else each


def _excused(audit: Audit, found: Finding) -> Finding:
    """Return a warning for an error where nothing else was left, or it was asked for.

    The check of white-box attacks says it then.
    """
    known = {system.name for system in audit.systems if system.gradients}
    if "adaptive" not in audit.settings.knowledge:
        known.discard(UNDEFENDED)
    if found.severity == "error" and found.subject not in known:
        return replace(found, severity="warning")
    return found
