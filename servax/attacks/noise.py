"""Random noise of an attack's size: what any attack worth its name must beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from servax.attacks.base import Attack, Norm
from servax.attacks.gradient import check_norm
from servax.attacks.problem import Problem
from servax.errors import SettingError
from servax.perturbation import Ball, Linf, check_radius, into_reach


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Attack):
    """Moves to the surface of the ball in a random direction; asks the model nothing.

    In the L-inf ball each element moves by plus or minus the radius, in the L2 ball the direction
    is uniform. Both are as large as an attack of that radius may be.
    """

    radius: float = 0.02
    """Size of the change, in units of the input."""
    norm: Norm = Linf
    """`Linf` or `L2`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        check_radius(self.radius)
        if self.labels != "true" or self.targeted:
            raise SettingError("labels", self.labels, "true, untargeted: noise knows no class")

    @property
    def ball(self) -> Ball:
        """The ball of the norm and radius."""
        return self.norm(self.radius)

    def iterates(self, problem: Problem) -> Iterator[torch.Tensor]:
        """Yield the one draw."""
        ball = problem.within(self.ball)
        direction = ball.steepest(ball.sample(problem.x, problem.random()))
        yield into_reach(problem.x, problem.x + ball.radius * direction, ball, problem.bounds)
