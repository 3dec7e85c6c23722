"""The checks of one system that need the model itself, on a few utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from servax.attacks import APGD, PGD, Attack
from servax.audit.attacking import reseed
from servax.audit.material import Material
from servax.audit.speed import Speed, over_draws
from servax.audit.subjects import Subject
from servax.audit.systems import System
from servax.audit.tiers import Catalogue
from servax.evaluation import checks
from servax.evaluation.checks import Finding, Planting
from servax.models import classes_of
from servax.training import generator

COUNT = 11
"""How many checks there are at most."""
WIDE_STEPS = 20
"""Steps of an attack whose ball is far larger than it needs."""
RESTARTS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probe:
    subject: Subject
    system: System
    x: Tensor
    y: Tensor
    catalogue: Catalogue
    draws: torch.Generator
    faced: nn.Module
    eot_draws: int

    @property
    def bounds(self) -> tuple[float, float]:
        return self.subject.bounds

    def pgd(self) -> PGD:
        budget = self.catalogue.budget
        return PGD(
            radius=budget.radius,
            norm=budget.ball,
            step=0.15 * budget.radius,
            steps=min(30, self.catalogue.effort.pgd),
            bounds=self.bounds,
            leave=True,
        )


def probe(
    subject: Subject,
    system: System,
    material: Material,
    catalogue: Catalogue,
    *,
    seed: int,
    tick: Callable[[], None],
) -> list[Finding]:
    """Return what the checks find on a few utterances that the system gets right.

    Args:
        subject: The bare model.
        system: Which system.
        material: The utterances.
        catalogue: Tier and budget of the audit.
        seed: Draws points and starts.
        tick: Called once per check.
    """
    reseed(system, seed, "checks")
    x, y = _right(system, material, catalogue.effort.probes)
    faced, eot_draws = system.model, 1
    if system.gradients and not checks.is_deterministic(system.model, x):
        faced, eot_draws = over_draws(system.model, x, y)
    case = _Probe(
        subject=subject,
        system=system,
        x=x,
        y=y,
        catalogue=catalogue,
        draws=generator(seed, "checks", system.name),
        faced=faced,
        eot_draws=eot_draws,
    )
    found = []
    for finding in (*_of_outputs(case), *(_of_attacks(case) if system.gradients else ())):
        found.append(finding)
        tick()
    return found


def _right(system: System, material: Material, count: int) -> tuple[Tensor, Tensor]:
    """Return the first utterances that a system gets right; any where there are none."""
    with torch.inference_mode():
        some = slice(0, 4 * count)
        right = classes_of(system.model(material.x[some])) == material.y[some]
    positions = torch.nonzero(right).squeeze(1)[:count].clone()
    if not len(positions):
        positions = torch.arange(min(count, len(material)))
    return material.x[positions], material.y[positions]


def _of_outputs(case: _Probe) -> Iterator[Finding]:
    model, name = case.system.model, case.system.name
    yield checks.evaluation_mode(model, subject=name)
    yield checks.outputs_are_logits(model, case.x, subject=name)
    yield checks.deterministic(model, case.x, subject=name, eot_draws=case.eot_draws)
    yield checks.batch_independence(model, case.x, subject=name)
    yield checks.clip_keeps_clean(case.x, bounds=case.bounds, subject=name)


def _of_attacks(case: _Probe) -> Iterator[Finding]:
    model, x, y, name = case.faced, case.x, case.y, case.system.name
    yield checks.zero_gradients(model, x, y, subject=name)
    knowledge: Literal["adaptive", "bpda"] = "adaptive" if case.system.exact else "bpda"
    yield checks.gradient_is_true(
        model,
        x[:4],
        y[:4],
        subject=name,
        generator=case.draws,
        knowledge=knowledge,
        bounds=case.bounds,
    )
    yield checks.large_epsilon(model, x, y, attack=_wide(case), subject=name, generator=case.draws)
    attack = case.pgd()
    attacked = attack(model, x, y, generator=case.draws)
    yield checks.inside_ball(
        x,
        attacked,
        ball=attack.ball,
        bounds=case.bounds,
        subject=name,
        sample_rate=case.subject.sample_rate if case.subject.inputs == "waveform" else None,
    )
    yield checks.restarts_and_steps(
        model, x, y, attack=attack, subject=name, generator=case.draws, restarts=RESTARTS
    )
    few = max(2, len(x) // 2)
    yield checks.planted(
        model,
        x[:few],
        attack=case.pgd(),
        subject=name,
        generator=case.draws,
        planting=Planting(inner=_inner(case.catalogue)),
    )


def _wide(case: _Probe) -> Callable[[float], Attack]:
    # Auto-PGD, since in a ball that wide a fixed step leads to where ReLUs have no gradient.
    budget = case.catalogue.budget
    return lambda radius: APGD(
        radius=radius, norm=budget.ball, bounds=case.bounds, steps=WIDE_STEPS, leave=True
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
    forwards = count * 20 + planted * (_inner(catalogue) + 10)
    return gradients * speed.gradient + forwards * speed.forward
