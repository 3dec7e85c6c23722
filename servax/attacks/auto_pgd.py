"""Auto-PGD: PGD that sets its own step from whether the loss still rises.

Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks"; the algorithm itself is in `servax.attacks.auto_ascent`. Differs in: every
random start is uniform in the ball, where the authors' are on its surface.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from servax.attacks.auto_ascent import auto_ascend
from servax.attacks.base import BallAttack
from servax.attacks.early_stopping import Strongest, last_of
from servax.attacks.gradient import check_whole
from servax.attacks.losses import LOSSES, LossName, dlr_targeted, margin
from servax.attacks.problem import Problem
from servax.errors import SettingError
from servax.kinds import renamed
from servax.perturbation import Ball, into_reach


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class APGD(BallAttack):
    """Auto-PGD on one loss; `steps` is all there is to choose."""

    steps: int = 100
    """Number of steps; each costs one gradient, and the start one more."""
    loss: LossName = "cross-entropy"
    """What is raised: `cross-entropy`, `dlr` or `margin`."""
    rho: float = 0.75
    """The step is halved when the loss rose in at most this share of the steps of a window."""
    random_start: bool = True
    """Begin at a random point of the ball instead of the clean input."""
    early_stop: bool = True
    """Stop once an utterance is fooled; otherwise its loss is raised to the end (for transfer)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self.steps, self.rho)
        if self.loss not in LOSSES:
            raise SettingError.choice("loss", self.loss, LOSSES)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the strongest inputs, start first: those that fool, else of the highest loss."""
        loss = LOSSES[self.loss]
        start = start_of(problem, self.ball, random_start=self.random_start)
        return auto_ascend(
            problem,
            self.ball,
            lambda logits, rows: problem.at(rows).gain(loss, logits),
            start=start,
            steps=int(self.steps),
            rho=self.rho,
            early_stop=self.early_stop,
        )


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(BallAttack):
    """Auto-PGD towards one other class after the other, the most likely first.

    What counts is still that the model leaves `y`. The targeted DLR needs four classes; with fewer
    the difference of the two logits stands in its place.
    """

    steps: int = 100
    """Number of steps per class."""
    targets: int | None = None
    """Lead towards so many of the other classes at most; None is all of them."""
    rho: float = 0.75
    """The step is halved when the loss rose in at most this share of the steps of a window."""
    random_start: bool = True
    """Begin at a random point of the ball instead of the clean input."""
    early_stop: bool = True
    """Stop once an utterance is fooled; otherwise all classes are tried to the end on all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self.steps, self.rho)
        if self.targets is not None:
            check_whole("targets", self.targets)
        if self.targeted:
            raise SettingError(
                "targeted",
                self.targeted,
                "False: this attack leads away from y through each other class; for a wanted class "
                "use APGD(targeted=True)",
            )

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the strongest inputs after each class: those that fool, else of highest margin."""
        if self.random_start:
            problem.random()
        logits = problem.scores(problem.x)
        likely = logits.scatter(1, problem.y.unsqueeze(1), -math.inf).argsort(1, descending=True)
        count = min(int(self.targets or logits.shape[1]), logits.shape[1] - 1)
        every = torch.arange(len(logits), device=logits.device)
        strongest = Strongest(problem.x)
        if self.early_stop:
            strongest.offer(every, problem.x, problem.fooled(logits), margin(logits, problem.y))
        yield strongest.inputs
        for towards in likely[:, :count].unbind(1):
            rows = strongest.standing() if self.early_stop else every
            if len(rows) == 0:
                return
            found = self._towards(problem, rows, towards[rows])
            part = problem.at(rows)
            scores = part.scores(found)
            strongest.offer(rows, found, part.fooled(scores), margin(scores, part.y))
            yield strongest.inputs

    def _towards(self, problem: Problem, rows: Tensor, towards: Tensor) -> Tensor:
        """Return the inputs of `rows` (m,) led towards the classes (m,)."""
        start = start_of(problem, self.ball, random_start=self.random_start)
        part = problem.at(rows)

        def gain(logits: Tensor, within: Tensor) -> Tensor:
            # Copies, since tensors made in inference mode could not be saved for the backward pass.
            return dlr_targeted(logits, part.y[within].clone(), towards[within].clone())

        walk = auto_ascend(
            part,
            self.ball,
            gain,
            start=start[rows],
            steps=int(self.steps),
            rho=self.rho,
            early_stop=self.early_stop,
        )
        return last_of(walk, part.x)


def check_settings(steps: float, rho: float) -> None:
    """Refuse what no Auto-PGD can run with."""
    check_whole("steps", steps)
    if not 0 < rho < 1:
        raise SettingError("rho", rho, "a number in (0, 1), .75 in the paper")


def start_of(problem: Problem, ball: Ball, *, random_start: bool) -> Tensor:
    """Return where each utterance begins, (n, ...), inside the ball and the bounds."""
    if not random_start:
        return problem.x
    inside = problem.within(ball)
    moved = problem.x + inside.sample(problem.x, problem.random())
    return into_reach(problem.x, moved, inside, problem.bounds)
