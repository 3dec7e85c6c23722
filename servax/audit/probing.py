"""The checks of one system that need the model itself, on a few utterances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from servax.attacks import APGD, PGD, Attack
from servax.attacks.gradient import STRIDE
from servax.attacks.problem import logits_of
from servax.audit.attacking import predict, reseed
from servax.audit.speed import Speed, over_draws
from servax.audit.tiers import Catalogue
from servax.evaluation import checks
from servax.evaluation.checks import Finding, Planting
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.systems import System
from servax.training import generator

COUNT = 12
"""How many checks there are at most."""
WIDE_STEPS = 20
"""Steps of an attack whose ball is far larger than it needs."""
RESTARTS = 5
VOTES = 5
"""Passes that vote on each answer of a random system."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probe:
    subject: System
    system: System
    x: Tensor
    y: Tensor
    catalogue: Catalogue
    draws: torch.Generator
    longer: Tensor | None
    faced: nn.Module
    eot_draws: int
    seen: checks.Repeats
    batch_size: int

    @property
    def bounds(self) -> tuple[float, float]:
        return self.subject.bounds

    def pgd(self, *, early_stop: bool = True) -> PGD:
        budget = self.catalogue.budget
        return PGD(
            epsilon=budget.radius,
            norm=budget.ball,
            step=STRIDE * budget.radius,
            steps=min(30, self.catalogue.effort.pgd),
            bounds=self.bounds,
            early_stop=early_stop,
        )

    @property
    def votes(self) -> int:
        """Passes that vote on each answer."""
        return VOTES if self.eot_draws > 1 else 1

    @cached_property
    def attacked(self) -> Tensor:
        """What PGD makes of the utterances at the radius of the audit."""
        return self.pgd()(self.faced, self.x, self.y, generator=self.draws)

    @property
    def fallen(self) -> Tensor:
        """Whom that fools, bool (n,)."""
        return predict(self.faced, self.attacked, batch_size=self.batch_size) != self.y


class _InParts(nn.Module):
    """The same model, asked for at most so many inputs at once."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, ...)."""
        return torch.cat([logits_of(self.model, part) for part in torch.split(x, self.size)])


def probe(
    subject: System,
    system: System,
    material: EvaluationSet,
    catalogue: Catalogue,
    *,
    seed: int,
    batch_size: int,
    tick: Callable[[], None],
) -> list[Finding]:
    """Return what the checks find on a few utterances that the system gets right.

    Args:
        subject: The bare model.
        system: Which system.
        material: The utterances.
        catalogue: Tier and budget of the audit.
        seed: Draws points and starts.
        batch_size: Inputs per forward pass, where a check does not ask for more.
        tick: Called once per check.
    """
    reseed(system, seed, "checks")
    cases: list[_Probe] = []

    def prepare() -> tuple[Finding, ...]:
        draws = generator(seed, "checks", system.name)
        cases.append(_case(subject, system, material, catalogue, draws, batch_size))
        return ()

    found = [*checks.carried_out("deterministic", system.name, prepare)]
    for case in cases:
        attacked = _of_attacks(case) if system.gradients else {}
        for check, run in (_of_outputs(case) | attacked).items():
            found += checks.carried_out(check, system.name, run)
            tick()
    return found


def _case(
    subject: System,
    system: System,
    material: EvaluationSet,
    catalogue: Catalogue,
    draws: torch.Generator,
    batch_size: int,
) -> _Probe:
    """Return a few utterances, and what an attacker faces who knows whether answers are random."""
    x, y, longer = _right(system, material, catalogue.effort.probes, batch_size)
    few = slice(0, batch_size)
    seen = checks.repeats(system.model, x[few])
    faced, eot_draws = system.model, 1
    if system.gradients and seen.random:
        faced, eot_draws = over_draws(system.model, x[few], y[few])
    if len(x) > batch_size:
        faced = _InParts(faced, batch_size)
    return _Probe(
        subject=subject,
        system=system,
        x=x,
        y=y,
        longer=longer,
        catalogue=catalogue,
        draws=draws,
        faced=faced,
        eot_draws=eot_draws,
        seen=seen,
        batch_size=batch_size,
    )


def _right(
    system: System, material: EvaluationSet, count: int, batch_size: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the first utterances that a system gets right, any where there are none.

    Behind the third stands something else: silence behind a waveform, the same sound backwards in
    the frames that a front-end filled up; none where a log-Mel is full.
    """
    some = slice(0, 4 * count)
    size = min(count, batch_size)
    right = predict(system.model, material.x[some], batch_size=size) == material.y[some]
    rows = torch.nonzero(right).squeeze(1)[:count].clone()
    if not len(rows):
        rows = torch.arange(min(count, len(material)))
    x, longer = material.x[rows], None
    if x.ndim == 2:
        longer = nn.functional.pad(x, (0, x.shape[1] // 4))
    elif material.mask is not None:
        longer = torch.where(material.mask[rows], x, x.flip(-1))
    return x, material.y[rows], longer


Checks = dict[str, Callable[[], Finding]]
"""Checks by name, in their order."""


def _of_outputs(case: _Probe) -> Checks:
    model, x, name, seen = case.system.model, case.x, case.system.name, case.seen
    several = case.subject.multi_label
    return {
        "evaluation-mode": lambda: checks.evaluation_mode(model, subject=name),
        "outputs-are-logits": lambda: checks.outputs_are_logits(
            model, x, subject=name, multi_label=several
        ),
        "deterministic": lambda: checks.deterministic(
            model, x, subject=name, eot_draws=case.eot_draws, seen=seen
        ),
        "batch-independence": lambda: checks.batch_independence(model, x, subject=name, seen=seen),
        "padding": lambda: checks.padding(model, x, subject=name, longer=case.longer, seen=seen),
        "clip-keeps-clean": lambda: checks.clip_keeps_clean(x, bounds=case.bounds, subject=name),
    }


def _of_attacks(case: _Probe) -> Checks:
    model, x, y, name, draws = case.faced, case.x, case.y, case.system.name, case.draws
    knowledge: Literal["adaptive", "bpda"] = "adaptive" if case.system.exact else "bpda"
    rate = case.subject.sample_rate if case.subject.inputs == "waveform" else None
    few = max(2, len(x) // 2)
    return {
        "zero-gradients": lambda: checks.zero_gradients(model, x, y, subject=name),
        "gradient-is-true": lambda: checks.gradient_is_true(
            case.system.model,
            x[:4],
            y[:4],
            subject=name,
            generator=draws,
            knowledge=knowledge,
            bounds=case.bounds,
        ),
        "large-epsilon": lambda: checks.large_epsilon(
            model,
            x,
            y,
            attack=_wide(case),
            subject=name,
            generator=draws,
            fallen=case.fallen,
            draws=case.votes,
        ),
        "inside-ball": lambda: checks.inside_ball(
            x,
            case.attacked,
            ball=case.pgd().ball,
            bounds=case.bounds,
            subject=name,
            sample_rate=rate,
        ),
        "restarts-and-steps": lambda: checks.restarts_and_steps(
            model,
            x,
            y,
            attack=case.pgd(),
            subject=name,
            generator=draws,
            restarts=RESTARTS,
            draws=case.votes,
        ),
        "planted": lambda: checks.planted(
            model,
            x[:few],
            attack=case.pgd(early_stop=case.votes == 1),
            subject=name,
            generator=draws,
            planting=Planting(inner=_inner(case.catalogue), batch_size=case.batch_size),
            draws=case.votes,
        ),
    }


def _wide(case: _Probe) -> Callable[[float], Attack]:
    # Auto-PGD, since in a ball that wide a fixed step leads to where ReLUs have no gradient. Who
    # early_stops at the first draw that errs was lucky: a random system is attacked to the end.
    budget = case.catalogue.budget
    return lambda radius: APGD(
        epsilon=radius,
        norm=budget.ball,
        bounds=case.bounds,
        steps=WIDE_STEPS,
        early_stop=case.votes == 1,
    )


def _inner(catalogue: Catalogue) -> int:
    """Return how many inner points a readout of the planted test gets."""
    return 20 if catalogue.tier == "smoke" else 100


def seconds(speed: Speed, count: int, catalogue: Catalogue) -> float:
    """Return what the checks of a system take at most, in seconds."""
    steps = min(30, catalogue.effort.pgd)
    planted = max(2, count // 2)
    gradients = count * (4 + 2 * WIDE_STEPS + steps * (RESTARTS + 6)) + 3 * planted * steps
    # Planted inputs are looked for one utterance at a time, which fills no batch.
    forwards = 64 + count * 30 + planted * (_inner(catalogue) + 10)
    return gradients * speed.gradient + forwards * speed.forward
