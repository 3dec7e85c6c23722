"""How long attacks may take: one timed batch per system, times what each threat asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.evaluation.checks.case import inner_points_of, steps_of
from servax.evaluation.checks.of_attacks import RESTARTS, WIDE_STEPS
from servax.evaluation.engine import FEW, MOST_DRAWS
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.evaluation.trial import repeats


@dataclass(frozen=True)
class Speed:
    """What a system costs on this machine."""

    forward: float
    """Seconds per utterance for an answer."""
    gradient: float
    """Seconds per utterance for a gradient, of a random system over the most draws."""

    def seconds(self, threat: Threat, utterances: int) -> float:
        """Return what a threat takes at most, in seconds."""
        each = threat.gradients * self.gradient + threat.queries * self.forward
        return utterances * (each + self.forward)


def measured(system: System, x: Tensor, y: Tensor) -> Speed:
    """Return the speed of a system on a batch (B, ...), the best of three tries."""
    tries = range(3)
    forward = min(timed(lambda: _forward(system.model, x)) for _ in tries)
    gradient = 0.0
    if system.gradients:
        draws = MOST_DRAWS if repeats(system.model, x[:FEW]).random else 1
        gradient = draws * min(timed(lambda: _gradient(system.model, x, y)) for _ in tries)
    return Speed(forward / len(x), gradient / len(x))


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> None:
    logits_of(model, x)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> None:
    leaf = x.clone().requires_grad_(True)
    torch.autograd.grad(nn.functional.cross_entropy(logits_of(model, leaf), y), leaf)


def of_checks(speed: Speed, count: int, suite: Suite) -> float:
    """Return what the checks of a system take at most, in seconds."""
    steps = steps_of(suite)
    planted = max(2, count // 2)
    gradients = count * (4 + 2 * WIDE_STEPS + steps * (RESTARTS + 6)) + 3 * planted * steps
    # Planted inputs are looked for one utterance at a time, which fills no batch.
    forwards = 64 + count * 30 + planted * (inner_points_of(suite) + 10)
    return gradients * speed.gradient + forwards * speed.forward
