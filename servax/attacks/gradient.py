"""FGSM and PGD: ascent on the classification loss.

Equations 10 and 11 of the paper; Goodfellow et al. 2015, Madry et al. 2018. The paper prints
neither PGD's step nor its radius; step .003 and radius .02 are ours (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack, held
from servax.attacks.early_stopping import walk
from servax.attacks.losses import LOSSES, LossName, cross_entropy
from servax.attacks.problem import Problem
from servax.errors import SettingError
from servax.kinds import check_number, renamed, typed
from servax.perturbation import (
    Objective,
    ascend,
    input_gradient,
    into_reach,
)

STRIDE = 0.15
"""Length of a step against the radius: .003 in .02, the paper's."""


@typed
def class_loss(model: nn.Module, y: Tensor) -> Objective:
    """Return the objective that leads away from classes `y`: cross-entropy per input, (B,).

    The objective raises a SettingError when a class is not one of the model's.

    Raises:
        SettingError: `y` is no tensor of int64.
    """
    if y.dtype != torch.int64:
        raise SettingError("the type of y", y.dtype, "torch.int64, class indices")
    return Problem(model=model, x=y, y=y).objective(cross_entropy)


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient descent (eq. 11), `steps` steps of length `step` in a ball."""

    step: float = 0.003
    """Length of one step, in units of the input (.003 is .24 dB on the default scale)."""
    steps: int = 15
    """Number of steps, the paper's k."""
    random_start: bool = False
    """Begin at a random point of the ball instead of the clean input."""
    loss: LossName = "cross-entropy"
    """What is raised: `cross-entropy` (eq. 11), `margin` or `dlr`."""
    early_stop: bool = False
    """Stop once an utterance is fooled, and save its passes; the paper takes all steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step < float("inf"):
            raise SettingError("step", self.step, "a finite number above 0")
        check_whole("steps", self.steps)
        if self.loss not in LOSSES:
            raise SettingError.choice("loss", self.loss, LOSSES)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps: without a random start, x_k is the result of PGD with k steps."""
        x, ball = problem.x, problem.within(self.ball)
        start = self.start(problem)
        if self.early_stop:
            yield from walk(
                problem,
                self.ball,
                loss=LOSSES[self.loss],
                step=self.step,
                steps=int(self.steps),
                start=start,
                early_stop=True,
            )
            return
        yield from ascend(
            problem.objective(LOSSES[self.loss]),
            x,
            ball,
            step=self.step,
            steps=int(self.steps),
            start=start,
            bounds=self.bounds,
        )

    def start(self, problem: Problem) -> Tensor | None:
        """Return a random point of the ball around each input, or None: the clean inputs."""
        if not self.random_start:
            return None
        return problem.x + problem.within(self.ball).sample(problem.x, problem.random())


@dataclass(frozen=True, kw_only=True)
class FGSM(BallAttack):
    """Fast gradient sign method (eq. 10): one PGD step as long as the ball is wide."""

    epsilon: float = 0.003
    """Size of the change, in units of the input (.003 is .24 dB on the default scale)."""

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon)
        if not 0 < self.epsilon < float("inf"):
            raise SettingError("epsilon", self.epsilon, "a finite number above 0")
        super().__post_init__()

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the one step."""
        yield from ascend(
            problem.objective(cross_entropy),
            problem.x,
            problem.within(self.ball),
            step=self.epsilon,
            steps=1,
            bounds=self.bounds,
        )

    def sweep(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        epsilons: Sequence[float],
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield each size, the smallest first, with its result, all from a single gradient.

        The gradient is taken at the clean input, so it is the same for every size, and every
        utterance is moved by all of them. Other arguments and errors as for a call.
        """
        attacks = self._of_sizes(epsilons)
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            x = problem.x
            gradient = input_gradient(problem.objective(cross_entropy), x)
        for attack in attacks:
            ball = problem.within(attack.ball)
            moved = into_reach(x, x + attack.epsilon * ball.steepest(gradient), ball, self.bounds)
            yield attack.epsilon, held(x, moved, ball, self.bounds)


def check_whole(name: str, value: float) -> None:
    """Refuse a count that is not a whole number above 0."""
    check_number(name, value)
    if not float(value).is_integer() or value < 1:
        raise SettingError(name, value, "a whole number of at least 1")
