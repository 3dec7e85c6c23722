"""The checks of an audit: of each system, and of what was recorded of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.attacks.gradient import STRIDE
from servax.attacks.problem import logits_of
from servax.audit.settings import Audit
from servax.audit.speed import Speed
from servax.evaluation.checks import (
    MODEL_CHECKS,
    RECORD_CHECKS,
    Case,
    Finding,
    carried_out,
    knowledge_complete,
    white_box,
)
from servax.evaluation.checks.declared import Among, Needs
from servax.evaluation.checks.of_attacks import RESTARTS, WIDE_STEPS
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import over_draws, predict, reseed
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import TOWARDS, Suite
from servax.evaluation.systems import System
from servax.evaluation.trial import repeats
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
        cases.append(_case(system, dataset, suite, draws, batch_size))
        return ()

    found = [*carried_out("deterministic", system.name, prepare)]
    for case in cases:
        for check in MODEL_CHECKS:
            if system.gradients or not check.gradients:
                found += check.carried_out(case)
                tick()
    return found


def _case(
    system: System,
    dataset: EvaluationSet,
    suite: Suite,
    draws: torch.Generator,
    batch_size: int,
) -> Case:
    """Return a few utterances, and what an attacker faces who knows whether answers are random.

    They are the first that a system gets right, any where there are none. Behind the third stands
    something else: silence behind a waveform, the same sound backwards in the frames that a
    front-end filled up; none where a log-Mel is full.
    """
    count, budget = suite.effort.probes, suite.budget
    some, few = slice(0, 4 * count), slice(0, batch_size)
    size = min(count, batch_size)
    right = predict(system.model, dataset.x[some], batch_size=size) == dataset.y[some]
    rows = torch.nonzero(right).squeeze(1)[:count].clone()
    rows = rows if len(rows) else torch.arange(min(count, len(dataset)))
    x, y, longer = dataset.x[rows], dataset.y[rows], None
    if x.ndim == 2:
        longer = nn.functional.pad(x, (0, x.shape[1] // 4))
    elif dataset.mask is not None:
        longer = torch.where(dataset.mask[rows], x, x.flip(-1))
    faced, eot_draws = system.model, 1
    if system.gradients and repeats(system.model, x[few]).random:
        faced, eot_draws = over_draws(system.model, x[few], y[few])
    return Case(
        model=system.model,
        x=x,
        y=y,
        subject=system.name,
        facing=_InParts(faced, batch_size) if len(x) > batch_size else faced,
        eot_draws=eot_draws,
        exact=system.exact,
        multi_label=system.multi_label,
        attack=PGD(
            epsilon=budget.radius,
            norm=budget.ball,
            step=STRIDE * budget.radius,
            steps=_steps(suite),
            bounds=system.bounds,
            early_stop=True,
        ),
        longer=longer,
        sample_rate=system.sample_rate if system.inputs == "waveform" else None,
        batch_size=batch_size,
        inner_points=_inner(suite),
        generator=draws,
    )


def _steps(suite: Suite) -> int:
    return min(30, suite.effort.pgd)


def _inner(suite: Suite) -> int:
    """Return how many inner points a readout of the planted test gets."""
    return 20 if suite.tier == "smoke" else 100


class _InParts(nn.Module):
    """The same model, asked for at most so many inputs at once."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, ...)."""
        return torch.cat([logits_of(self.model, part) for part in torch.split(x, self.size)])


def seconds(speed: Speed, count: int, suite: Suite) -> float:
    """Return what the checks of a system take at most, in seconds."""
    steps = _steps(suite)
    planted = max(2, count // 2)
    gradients = count * (4 + 2 * WIDE_STEPS + steps * (RESTARTS + 6)) + 3 * planted * steps
    # Planted inputs are looked for one utterance at a time, which fills no batch.
    forwards = 64 + count * 30 + planted * (_inner(suite) + 10)
    return gradients * speed.gradient + forwards * speed.forward


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
    ours = frame[frame["space"] == audit.subject.inputs]
    same = ours[~ours["attack"].str.startswith(TOWARDS)]
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
