"""Random noise of an attack's size: what any attack worth its name must beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from servax.attacks.base import BallAttack
from servax.attacks.problem import Problem
from servax.errors import SettingError
from servax.kinds import renamed
from servax.perturbation import into_reach


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class RandomNoise(BallAttack):
    """Moves to the surface of the ball in a random direction; asks the model nothing.

    In the L-inf ball each element moves by plus or minus epsilon, in the L2 ball the direction
    is uniform. Both are as large as an attack of that epsilon may be.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels != "true" or self.targeted:
            raise SettingError("labels", self.labels, "true, untargeted: noise knows no class")

    def iterates(self, problem: Problem) -> Iterator[torch.Tensor]:
        """Yield the one draw."""
        ball = problem.within(self.ball)
        direction = ball.steepest(ball.sample(problem.x, problem.random()))
        yield into_reach(problem.x, problem.x + ball.radius * direction, ball, problem.bounds)
