"""The checks of one system that need the model itself, on a few utterances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.attacks.gradient import STRIDE
from servax.attacks.problem import logits_of
from servax.audit.speed import Speed
from servax.evaluation.checks import MODEL_CHECKS, Case, Finding, carried_out
from servax.evaluation.checks.of_attacks import RESTARTS, WIDE_STEPS
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import over_draws, predict, reseed
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.evaluation.trial import repeats
from servax.training import generator

COUNT = len(MODEL_CHECKS)
"""How many checks there are at most."""


class _InParts(nn.Module):
    """The same model, asked for at most so many inputs at once."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, ...)."""
        return torch.cat([logits_of(self.model, part) for part in torch.split(x, self.size)])


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
    """Return a few utterances, and what an attacker faces who knows whether answers are random."""
    x, y, longer = _right(system, dataset, suite.effort.probes, batch_size)
    few = slice(0, batch_size)
    faced, eot_draws = system.model, 1
    if system.gradients and repeats(system.model, x[few]).random:
        faced, eot_draws = over_draws(system.model, x[few], y[few])
    if len(x) > batch_size:
        faced = _InParts(faced, batch_size)
    budget = suite.budget
    return Case(
        model=system.model,
        x=x,
        y=y,
        subject=system.name,
        facing=faced,
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


def _right(
    system: System, dataset: EvaluationSet, count: int, batch_size: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the first utterances that a system gets right, any where there are none.

    Behind the third stands something else: silence behind a waveform, the same sound backwards in
    the frames that a front-end filled up; none where a log-Mel is full.
    """
    some = slice(0, 4 * count)
    size = min(count, batch_size)
    right = predict(system.model, dataset.x[some], batch_size=size) == dataset.y[some]
    rows = torch.nonzero(right).squeeze(1)[:count].clone()
    if not len(rows):
        rows = torch.arange(min(count, len(dataset)))
    x, longer = dataset.x[rows], None
    if x.ndim == 2:
        longer = nn.functional.pad(x, (0, x.shape[1] // 4))
    elif dataset.mask is not None:
        longer = torch.where(dataset.mask[rows], x, x.flip(-1))
    return x, dataset.y[rows], longer


def _inner(suite: Suite) -> int:
    """Return how many inner points a readout of the planted test gets."""
    return 20 if suite.tier == "smoke" else 100


def seconds(speed: Speed, count: int, suite: Suite) -> float:
    """Return what the checks of a system take at most, in seconds."""
    steps = _steps(suite)
    planted = max(2, count // 2)
    gradients = count * (4 + 2 * WIDE_STEPS + steps * (RESTARTS + 6)) + 3 * planted * steps
    # Planted inputs are looked for one utterance at a time, which fills no batch.
    forwards = 64 + count * 30 + planted * (_inner(suite) + 10)
    return gradients * speed.gradient + forwards * speed.forward
