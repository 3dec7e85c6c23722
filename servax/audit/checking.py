"""The checks of an audit: of each system, of the records of all, and of what fronts notice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.audit.settings import Audit
from servax.defences import Detector, Score
from servax.evaluation.checks import (
    MODEL_CHECKS,
    RECORD_CHECKS,
    Case,
    Finding,
    attacks_move,
    carried_out,
    white_box,
)
from servax.evaluation.checks.declared import Among, Needs
from servax.evaluation.checks.of_records import knowledge_complete
from servax.evaluation.engine import reseed
from servax.evaluation.metrics import detected_at, roc_area
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.training import generator

EVERY_SYSTEM = "all systems"
"""Subject of a check of the records that could not be carried out."""
SCORES: tuple[Score, ...] = ("residual", "l1")
FALSE_POSITIVES = 0.05
"""Share of clean inputs that may be flagged."""


def probe(audit: Audit, system: System, tick: Callable[[], None]) -> list[Finding]:
    """Return what the checks find on a few utterances that a system gets right.

    `tick` is called once per check.
    """
    s = audit.settings
    reseed(system, s.seed, "checks")
    cases: list[Case] = []

    def prepare() -> tuple[Finding, ...]:
        draws, size = generator(s.seed, "checks", system.name), s.batch_size
        cases.append(Case.of(system, audit.dataset, audit.suite, batch_size=size, generator=draws))
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
        if len(measures):
            yield attacks_move(system.name, measures[measures["defence"] == system.name])
    faced = {system.name for system in audit.systems if system.gradients}
    faced -= set() if "adaptive" in known else {UNDEFENDED}
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
                # Where nothing else was left, or was asked for, the check of white-box attacks
                # says it.
                excused = check is knowledge_complete and each.subject not in faced
                error = each.severity == "error"
                yield replace(each, severity="warning") if error and excused else each
    for told in probed:
        yield Finding(**told)


def detections(
    audit: Audit,
    system: System,
    made: Sequence[tuple[Threat, Tensor]],
    *,
    tick: Callable[[], None],
) -> list[dict[str, Any]]:
    """Return how well the front of a system tells attacked inputs, a row per threat and score.

    Clean inputs are all utterances, so that the rate of false alarms is the one a user meets.
    Attacked ones are those that an attack moved: one that it left alone is not attacked. The
    attacks are made against the classifier only, and do not try to pass the detector as well.

    Args:
        audit: Systems, utterances, settings.
        system: One with a front, and not random: draws would move clean inputs as well.
        made: Each threat with the inputs (N, ...) that it made.
        tick: Called once for the clean inputs, and once per threat.

    Returns:
        `defence`, `attack`, `knowledge`, `score`, `area` under the curve, `detected_at_5_percent`
        (share of attacked inputs that are flagged where 5 % of clean ones are), both none where
        no utterance was moved, and `utterances`, which were.
    """
    size, x = audit.settings.batch_size, audit.dataset.x
    front: nn.Module = system.front  # type: ignore[assignment]
    detectors = {score: Detector(front, audit.subject.model, score=score) for score in SCORES}
    reseed(system, audit.settings.seed, "detector")

    @torch.no_grad()
    def scores(inputs: Tensor) -> dict[Score, Tensor]:
        parts = torch.split(inputs, size)
        return {name: torch.cat(list(map(each, parts))) for name, each in detectors.items()}

    clean = scores(x)
    tick()
    told = []
    for threat, inputs in made:
        moved = (inputs != x).flatten(1).any(dim=1)
        attacked = scores(inputs[moved]) if moved.any() else {}
        for score in SCORES:
            both = (clean[score], attacked[score]) if attacked else None
            told.append(
                {
                    "defence": system.name,
                    "attack": threat.name,
                    "knowledge": threat.knowledge,
                    "score": score,
                    "area": both and roc_area(*both),
                    "detected_at_5_percent": both and detected_at(*both, FALSE_POSITIVES),
                    "utterances": int(moved.sum()),
                }
            )
        tick()
    return told
