"""How long attacks and checks may take: one timed batch per system, times what each asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from servax.attacks import Problem, cross_entropy
from servax.evaluation.checks.case import inner_points_of, steps_of
from servax.evaluation.checks.of_attacks import RESTARTS, WIDE_STEPS
from servax.evaluation.engine import FEW, MOST_DRAWS, predict
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.evaluation.trial import repeats
from servax.perturbation import input_gradient


@dataclass(frozen=True)
class Speed:
    """What a system costs on this machine."""

    forward: float
    """Seconds per utterance for an answer."""
    gradient: float
    """Seconds per utterance for a gradient, of a random system over the most draws."""

    @classmethod
    def of(cls, system: System, x: Tensor, y: Tensor) -> Speed:
        """Return the speed of a system on a batch (B, ...), the best of three tries."""
        tries, count = range(3), len(x)
        forward = min(timed(lambda: predict(system.model, x, batch_size=count)) for _ in tries)
        gradient = 0.0
        if system.gradients:
            draws = MOST_DRAWS if repeats(system.model, x[:FEW]).random else 1
            loss = Problem(model=system.model, x=x, y=y).objective(cross_entropy)
            gradient = draws * min(timed(lambda: input_gradient(loss, x)) for _ in tries)
        return cls(forward / count, gradient / count)

    def of_attack(self, threat: Threat, utterances: int) -> float:
        """Return what a threat takes at most, in seconds."""
        each = threat.gradients * self.gradient + threat.queries * self.forward
        return utterances * (each + self.forward)

    def of_checks(self, suite: Suite, count: int) -> float:
        """Return what the checks of a system take at most, in seconds."""
        steps, planted = steps_of(suite), max(2, count // 2)
        gradients = count * (4 + 2 * WIDE_STEPS + steps * (RESTARTS + 6)) + 3 * planted * steps
        # Planted inputs are looked for one utterance at a time, which fills no batch.
        forwards = 64 + count * 30 + planted * (inner_points_of(suite) + 10)
        return gradients * self.gradient + forwards * self.forward


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
