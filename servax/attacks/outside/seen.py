"""The model as a library sees it: on [0, 1], with what may not change always put back.

Not all libraries honour other bounds (torchattacks knows only [0, 1], and foolbox' HopSkipJump
clamps to it whatever its model says), so all of them see [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from servax.attacks.problem import Problem, logits_of
from servax.errors import ServaxError


class UnknownRowsError(ServaxError):
    """A library asked about some utterances of a batch without saying which."""


def finite(problem: Problem, reach: float) -> Problem:
    """Return the same problem with finite bounds; inputs that may move by `reach` do not notice."""
    low, high = problem.bounds
    low = low if math.isfinite(low) else float(problem.x.min()) - reach
    high = high if math.isfinite(high) else float(problem.x.max()) + reach
    return replace(problem, bounds=(low, high))


class Seen(nn.Module):
    """A classifier of inputs in [0, 1] made of a problem's model, bounds, mask and clean inputs."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.training = False
        self.model = problem.model
        self.problem = problem
        self.low, self.high = problem.bounds
        self.plain = problem.bounds == (0.0, 1.0)

    @property
    def width(self) -> float:
        """What a length of 1 is to the library, in units of the input."""
        return self.high - self.low

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (m, K) of inputs (m, ...) in [0, 1], m = n unless n is 1."""
        # In the type that was handed in: some libraries cast to float32 by themselves.
        return logits_of(self.model, self.put_back(self.outside(z))).to(z.dtype)

    def inside(self, x: Tensor) -> Tensor:
        """Return inputs (n, ...) of the model as the library sees them, in [0, 1]."""
        return x if self.plain else ((x - self.low) / self.width).clamp(0.0, 1.0)

    def outside(self, z: Tensor) -> Tensor:
        """Return inputs (m, ...) in [0, 1] as the model sees them, inside its bounds."""
        z = z.to(self.problem.x.dtype)
        return z if self.plain else z * self.width + self.low

    def put_back(self, moved: Tensor) -> Tensor:
        """Return inputs (m, ...) with clean values where nothing may change: no gradient there.

        Raises:
            UnknownRowsError: There is a mask, and it is not known which utterances these are.
        """
        clean = self.problem.x
        if self.problem.mask is None:
            return moved
        if len(clean) not in (1, len(moved)):
            raise UnknownRowsError(
                f"{len(moved)} inputs of a batch of {len(clean)} with a mask, expected all of them."
            )
        return torch.where(self.problem.mask, moved, clean)

    def changed(self, z: Tensor, seen: Tensor) -> Tensor:
        """Return what a library made (n, ...) of the inputs it saw, as inputs of the model.

        What it left as it was keeps its exact value, and what is not finite is clean.
        """
        clean = self.problem.x
        z = z.detach().to(clean.device)
        moved = self.put_back(self.outside(z)).clamp(self.low, self.high)
        # There and back again is not exact in other bounds.
        moved = torch.where(z == seen.to(z.dtype), clean, moved)
        finite = moved.isfinite().flatten(1).all(dim=1)
        return torch.where(finite.view(-1, *[1] * (clean.ndim - 1)), moved, clean)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever a library asks for."""
        return self
