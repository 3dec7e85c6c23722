"""How far by signal-to-noise ratio: the louder an utterance, the larger its change may be.

|change| <= |x| 10^(-decibels / 20) in the Euclidean norm: a ball of another radius for each
utterance. So that it has one radius like every ball, its norm is counted in units of the
utterance's own: 1 is the whole budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from servax.errors import SettingError
from servax.kinds import check_types, typed
from servax.perturbation.balls import L2, Ball

UNIT = L2(1.0)


@dataclass(frozen=True)
class SignalToNoise:
    """A budget in dB; `around` makes it a ball once the utterances are known."""

    decibels: float
    """Lowest ratio of the utterance's energy to that of its change, in dB."""

    def __post_init__(self) -> None:
        check_types(self)
        if not math.isfinite(self.decibels):
            raise SettingError("the signal-to-noise ratio", self.decibels, "a finite number of dB")

    @typed
    def around(self, x: Tensor) -> Ball:
        """Return the ball of utterances `x` (B, ...); a silent one must stay as it is."""
        return PerUtterance(UNIT.norm(x.double()) * 10.0 ** (-self.decibels / 20.0))


@dataclass(frozen=True, eq=False)
class PerUtterance:
    """L2 balls of a batch, one radius for each utterance; norms are shares of that radius."""

    radii: Tensor
    """Largest Euclidean norm of the change of each utterance, (B,) in float64, at least 0."""

    @property
    def radius(self) -> float:
        """One: the norm is counted in radii."""
        return 1.0

    def norm(self, change: Tensor) -> Tensor:
        """Return |change| / radius, (B,); infinite for a change where the radius is 0."""
        length = UNIT.norm(change)
        moved = change.flatten(1).any(dim=1)
        return torch.where(moved, length / self.radii, torch.zeros_like(length))

    def project(self, change: Tensor) -> Tensor:
        """Return changes outside their ball scaled back to its surface."""
        norm = UNIT.norm(change).clamp(min=torch.finfo(change.dtype).tiny)
        return change * _column((self.radii / norm).clamp(max=1.0), change)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient scaled to the radius; a zero gradient stays zero."""
        return UNIT.steepest(gradient) * _column(self.radii, gradient)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return changes uniform in the balls."""
        return UNIT.sample(like, generator) * _column(self.radii, like)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) shaped to multiply a tensor (B, ...)."""
    return values.to(like.dtype).view(-1, *([1] * (like.ndim - 1)))
