"""The checks of an audit: of each system, and of what was recorded of all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from servax.audit.settings import Audit
from servax.evaluation.checks import (
    MODEL_CHECKS,
    RECORD_CHECKS,
    Case,
    Finding,
    carried_out,
    white_box,
)
from servax.evaluation.checks.declared import Among, Needs
from servax.evaluation.checks.of_records import knowledge_complete
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import reseed
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.training import generator

EVERY_SYSTEM = "all systems"
"""Subject of a check of the records that could not be carried out."""


def probe(
    system: System,
    dataset: EvaluationSet,
    suite: Suite,
    *,
    seed: int,
    batch_size: int,
    tick: Callable[[], None],
) -> list[Finding]:
    """Return what the checks find on a few utterances that the system gets right.

    Args:
        system: Which system.
        dataset: The utterances.
        suite: Tier and budget of the audit.
        seed: Draws points and starts.
        batch_size: Inputs per forward pass, where a check does not ask for more.
        tick: Called once per check.
    """
    reseed(system, seed, "checks")
    cases: list[Case] = []

    def prepare() -> tuple[Finding, ...]:
        draws = generator(seed, "checks", system.name)
        cases.append(Case.of(system, dataset, suite, batch_size=batch_size, generator=draws))
        return ()

    found = [*carried_out("deterministic", system.name, prepare)]
    for case in cases:
        for check in MODEL_CHECKS:
            if system.gradients or not check.gradients:
                some = case.first(check.part(len(case.x)))
                found += carried_out(check.name, system.name, partial(check, some))
                tick()
    return found


def findings(
    audit: Audit,
    frame: pd.DataFrame,
    led: Collection[str],
    probed: list[dict[str, Any]],
    measures: pd.DataFrame,
) -> Iterator[Finding]:
    """Yield the findings: of gradients, of the records, of the models.

    Args:
        audit: Systems, utterances, settings.
        frame: The records of the audit.
        led: Names of the attacks that lead to a chosen class.
        probed: Findings of the checks of models, as JSON.
        measures: One row per threat and system, with the draws of each gradient.
    """
    radius, known = audit.settings.budget.radius, audit.settings.knowledge
    for system in audit.systems:
        yield white_box(system, audit.subject, known)
    there: set[Needs] = {"nothing"}
    if "adaptive" in known and any(system.gradients for system in audit.systems):
        there.add("white-box")
    if audit.defences and audit.subject.gradients:
        there.add("defences")
    # The attack on the sound has a ball of another kind: its strength compares with no radius.
    # One that leads to a chosen class leaves that class alone, and need not do as much as noise.
    ours = frame[frame["space"] == audit.subject.inputs]
    same = ours[~ours["attack"].isin(led)]
    # Below the radius the only attacker with gradients may be FGSM, which proves nothing.
    full = same[np.isclose(same["strength"], radius) | (same["attack"] == "none")]
    rows: dict[Among, pd.DataFrame] = {"all": frame, "one ball": same, "one size": full}
    draws = measures.groupby("defence")["draws"].max() if len(measures) else pd.Series(dtype=int)
    random = {str(name): int(most) for name, most in draws.items() if most > 1}
    for check in RECORD_CHECKS:
        if check.needs in there:
            settings = {"eot_draws": random} if check is knowledge_complete else {}
            run = partial(check, rows[check.among], **settings)
            for each in carried_out(check.name, EVERY_SYSTEM, run):
                yield _excused(audit, each) if check is knowledge_complete else each
    for told in probed:
        yield Finding(**told)


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
