"""One perturbation for everybody: fitted on some utterances, added unchanged to others.

Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations"; on sound Neekhara et al. 2019,
"Universal adversarial perturbations for speech recognition systems". Fitted by projected ascent on
the mean loss of batches, each utterance's loss clipped, after Shafahi et al. 2020, "Universal
adversarial training" (section 3): those that are fooled by far no longer pull. Differs in: a step
is a steepest one of the ball's norm, and under a signal-to-noise ratio the one sound is as loud for
each utterance as its own ball allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack, Problem
from servax.attacks.logits import cross_entropy
from servax.errors import SettingError, ShapeError
from servax.kinds import COUNT, POSITIVE, Rules
from servax.perturbation import L2, Linf, input_gradient, into_reach, radius_of

CLIP = 9.0
"""Cross-entropy at which an utterance no longer counts (beta in Shafahi et al.)."""


@dataclass(frozen=True, kw_only=True)
class Universal(BallAttack):
    """One change for all utterances; `fit` finds it, a call adds it."""

    steps: int = 100
    """Batches that the change is fitted on."""
    step: float = 0.1
    """Length of a step, as a share of the ball."""
    batch_size: int = 16
    """Utterances in a batch."""
    direction: Tensor | None = field(default=None, repr=False, compare=False)
    """The change as a share of the ball, of the shape of one input; `fit` sets it."""

    RULES: ClassVar[Rules] = {"steps": COUNT, "step": POSITIVE, "batch_size": COUNT}

    def fit(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Self:
        """Return this attack with the change that raises the mean loss of utterances most.

        Args:
            model: From inputs (N, ...) to logits (N, C); attacked in evaluation mode.
            x: Inputs (N, ...) to fit on, such as those of the training speakers.
            y: Their classes (N,) to lead away from; towards when `targeted`.
            generator: Draws the batches.

        Raises:
            ShapeError: As of a call.
            SettingError: Likewise.
        """
        unit = Linf(1.0) if self.norm is Linf else L2(1.0)
        with self.facing(model, x, y, generator=generator) as given:
            problem = self.rounding(given)
            direction = torch.zeros_like(problem.x[:1])
            order = torch.empty(0, dtype=torch.int64)
            for _ in range(int(self.steps)):
                if len(order) == 0:
                    order = torch.randperm(len(problem.x), generator=generator)
                rows, order = order[: self.batch_size], order[self.batch_size :]
                gradient = self._gradient(problem.at(rows.to(problem.x.device)), direction)
                direction = unit.project(direction + self.step * unit.steepest(gradient))
        return replace(self, direction=direction[0])

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the inputs with the change.

        Raises:
            SettingError: There is no change yet.
            ShapeError: It was fitted on inputs of another shape.
        """
        if self.direction is None:
            raise SettingError("direction", None, "one of fit(model, x, y, generator=...)")
        if self.direction.shape != problem.x.shape[1:]:
            expected = f"(B, {', '.join(map(str, self.direction.shape))}), as it was fitted on"
            raise ShapeError("x", problem.x.shape, expected)
        yield self._changed(problem, self.direction.to(problem.x).unsqueeze(0))

    def _gradient(self, problem: Problem, direction: Tensor) -> Tensor:
        """Return the gradient of the clipped loss of a batch with respect to the change, (1, ...).

        The ball's edge and the bounds are passed straight through.
        """

        def clipped(z: Tensor) -> Tensor:
            return problem.gain(cross_entropy, problem.logits(problem.heard(z))).clamp(max=CLIP)

        gradient = input_gradient(clipped, self._changed(problem, direction))
        return (radius_of(self.ball.around(problem.x), gradient) * gradient).sum(0, keepdim=True)

    def _changed(self, problem: Problem, direction: Tensor) -> Tensor:
        """Return inputs (n, ...) with a change (1, ...) as large as their balls."""
        ball = problem.within(self.ball)
        moved = problem.x + radius_of(self.ball.around(problem.x), problem.x) * direction
        return into_reach(problem.x, moved, ball, self.bounds)
