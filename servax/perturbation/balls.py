"""How far: balls around a clean input that measure, project, sample and point uphill.

Values instead of strings for norms and budgets, so that an attack needs no ``if norm == ...``.
Norms are taken per utterance, over all of its elements.

A signal-to-noise ratio is a ball of another radius for each utterance: the louder it is, the larger
its change may be, |change| <= |x| 10^(-decibels / 20) in the Euclidean norm. So that it has one
radius like every ball, its norm is counted in units of the utterance's own: 1 is all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from servax.errors import SettingError
from servax.kinds import NOT_NEGATIVE, check_kind, check_number, check_types, typed
from servax.training import drawn


class Ball(Protocol):
    """A set of allowed changes around zero."""

    @property
    def radius(self) -> float:
        """Largest norm of an allowed change."""

    def norm(self, change: Tensor) -> Tensor:
        """Return the norm (B,) of changes (B, ...)."""

    def project(self, change: Tensor) -> Tensor:
        """Return the nearest allowed changes, same shape."""

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the changes of norm 1 with the largest product with `gradient`."""

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return uniformly drawn allowed changes of the shape of `like`."""


class Limit(Protocol):
    """How far any input may change: the same ball for all, or one that depends on the input."""

    @property
    def radius(self) -> float:
        """Size of the ball; of two limits of one kind the larger one allows more."""

    def around(self, x: Tensor) -> Ball:
        """Return the changes that inputs `x` (B, ...) may undergo."""


@dataclass(frozen=True)
class Linf:
    """Every element may change by at most `radius`."""

    radius: float
    """Largest absolute change of an element."""

    def __post_init__(self) -> None:
        NOT_NEGATIVE.check("radius", self.radius)

    def around(self, x: Tensor) -> Linf:
        """Return this ball, whatever `x` is."""
        return self

    def norm(self, change: Tensor) -> Tensor:
        """Return the largest absolute element of each utterance, (B,)."""
        return change.abs().flatten(1).amax(1)

    def project(self, change: Tensor) -> Tensor:
        """Return `change` clamped to [-radius, radius]."""
        return change.clamp(-self.radius, self.radius)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient."""
        return gradient.sign()

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return changes uniform in the cube."""
        uniform = drawn(torch.rand, like.shape, generator, like.dtype).to(like.device)
        return (2.0 * uniform - 1.0) * self.radius


@dataclass(frozen=True)
class L2:
    """The Euclidean norm of an utterance's change may be at most `radius`."""

    radius: float
    """Largest Euclidean norm of the change of one utterance."""

    def __post_init__(self) -> None:
        NOT_NEGATIVE.check("radius", self.radius)

    def around(self, x: Tensor) -> L2:
        """Return this ball, whatever `x` is."""
        return self

    def norm(self, change: Tensor) -> Tensor:
        """Return the Euclidean norm of each utterance, (B,)."""
        largest, unit = _scaled(change)
        length: Tensor = largest * unit.flatten(1).norm(dim=1)
        return length

    def project(self, change: Tensor) -> Tensor:
        """Return changes outside the ball scaled back to its surface."""
        norm = self.norm(change).clamp(min=torch.finfo(change.dtype).tiny)
        # torch takes a number over a tensor for the number times a reciprocal: rounded twice, it
        # may be 1 where the norm is one step too long, which would then stay.
        share = torch.full_like(norm, self.radius) / norm
        return change * per_utterance(share.clamp(max=1.0), change)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient divided by its norm; a zero gradient stays zero."""
        _, unit = _scaled(gradient)
        norm = unit.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        return unit / per_utterance(norm, gradient)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return changes uniform in the ball: a direction times radius * u**(1/n)."""
        direction = drawn(torch.randn, like.shape, generator, like.dtype).to(like.device)
        u = drawn(torch.rand, like.shape[:1], generator, like.dtype).to(like.device)
        length: Tensor = self.radius * u.pow(1.0 / max(1, like[0].numel()))
        return self.steepest(direction) * per_utterance(length, like)


UNIT = L2(1.0)


@dataclass(frozen=True, eq=False)
class Masked:
    """A ball whose changes are zero outside a mask: padded frames are left alone."""

    ball: Ball
    """How far the rest may change."""
    mask: Tensor
    """True where a change is allowed; bool, broadcastable to the changes (B, ...)."""

    @property
    def radius(self) -> float:
        """Largest norm of an allowed change."""
        return self.ball.radius

    def __post_init__(self) -> None:
        check_kind("mask", self.mask, Tensor)
        check_number("the radius of the ball", getattr(self.ball, "radius", None))

    def norm(self, change: Tensor) -> Tensor:
        """Return the norm (B,); infinite where a forbidden element changes."""
        norm = self.ball.norm(change)
        forbidden = ((change != 0) & ~self.mask).flatten(1).any(dim=1)
        return norm.masked_fill(forbidden, math.inf)

    def project(self, change: Tensor) -> Tensor:
        """Return the nearest allowed changes."""
        return self.ball.project(self._kept(change))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the changes of norm 1 inside the mask with the largest product."""
        return self.ball.steepest(self._kept(gradient))

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return a draw from the whole ball, set to zero outside the mask."""
        return self._kept(self.ball.sample(like, generator))

    def _kept(self, change: Tensor) -> Tensor:
        return torch.where(self.mask, change, torch.zeros_like(change))


def ratio_of(share: float) -> float:
    """Return the signal-to-noise ratio in dB at which a change has a share of the utterance's norm.

    The inverse of `SignalToNoise.radius`.
    """
    return -20.0 * math.log10(share)


@dataclass(frozen=True)
class SignalToNoise:
    """A budget in dB; `around` makes it a ball once the utterances are known."""

    decibels: float
    """Lowest ratio of the utterance's energy to that of its change, in dB."""

    def __post_init__(self) -> None:
        check_types(self)
        if not math.isfinite(self.decibels):
            raise SettingError("the signal-to-noise ratio", self.decibels, "a finite number of dB")

    @property
    def radius(self) -> float:
        """Largest norm of a change, as a share of the utterance's: .01 at 40 dB."""
        share: float = 10.0 ** (-self.decibels / 20.0)
        return share

    @typed
    def around(self, x: Tensor) -> PerUtterance:
        """Return the ball of utterances `x` (B, ...); a silent one must stay as it is."""
        return PerUtterance(UNIT.norm(x.double()) * self.radius)


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
        share = (self.radii / norm).clamp(max=1.0)
        return change * per_utterance(share.to(change.dtype), change)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient scaled to the radius; a zero gradient stays zero."""
        return UNIT.steepest(gradient) * per_utterance(self.radii.to(gradient.dtype), gradient)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return changes uniform in the balls."""
        return UNIT.sample(like, generator) * per_utterance(self.radii.to(like.dtype), like)


def radius_of(ball: Ball, like: Tensor) -> Tensor | float:
    """Return the radius of a ball; where each utterance has its own, (B, 1, ...) for `like`."""
    if isinstance(ball, PerUtterance):
        return per_utterance(ball.radii.to(like.dtype), like)
    return ball.radius


def _scaled(change: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest absolute element (B,) and `change` divided by it.

    A sure model's gradients are so small that their squares vanish in float32; divided first, they
    keep their direction.
    """
    largest = change.abs().flatten(1).amax(1).clamp(min=torch.finfo(change.dtype).tiny)
    return largest, change / per_utterance(largest, change)


def per_utterance(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) shaped to stand beside a tensor (B, ...)."""
    return values.view(-1, *([1] * (like.ndim - 1)))
