"""Rounding that leaves neither the ball nor the bounds, whatever the type of the inputs.

x + change has to be a number of the type of x. In bfloat16 the neighbours of .5 are .0039 away: the
nearest one may lie far outside a ball of .003, and in float32 an ulp outside. So what must be
rounded is rounded towards x. Distances are those of float64, which holds the difference of two
numbers of a narrower type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from servax.perturbation.balls import Ball

Bounds = tuple[float, float]
"""Lowest and highest value of a valid input."""
SHRUNK = 1.0 - 2.0**-40
"""What a scaled change is scaled by once more: sums of squares are rounded too."""


def exact_change(x: Tensor, moved: Tensor) -> Tensor:
    """Return `moved` - `x`, (B, ...) in float64, in memory of its own."""
    return moved.to(torch.float64, copy=True).sub_(x)


def moved_by(x: Tensor, change: Tensor) -> Tensor:
    """Return the numbers of the type of `x` nearest to x + change that are no further from `x`.

    Args:
        x: Inputs (B, ...).
        change: By how much they should move, (B, ...) in float64.
    """
    nearest = (change + x).to(x.dtype)
    further = exact_change(x, nearest).abs_() > change.abs()
    return torch.where(further, torch.nextafter(nearest, x), nearest)


def into_ball(x: Tensor, moved: Tensor, ball: Ball) -> Tensor:
    """Return inputs (B, ...) with what rounding carried out of the ball around `x` brought back.

    Utterances inside the ball, and elements that may be as they are, keep every bit.
    """
    change = exact_change(x, moved)
    # In whatever norm an element beyond the radius is outside; mostly by one step of its type.
    beyond = change.abs() > ball.radius
    if bool(beyond.any()):
        moved = torch.where(beyond, torch.nextafter(moved, x), moved)
        change = exact_change(x, moved)
    outside = ~(ball.norm(change) <= ball.radius)
    if not bool(outside.any()):
        return moved
    allowed = ball.project(change)
    stays = (allowed == change) | ~outside.view(-1, *[1] * (x.ndim - 1))
    return torch.where(stays, moved, moved_by(x, allowed.mul_(SHRUNK)))


def into_bounds(x: Tensor, moved: Tensor, bounds: Bounds) -> Tensor:
    """Return inputs (B, ...) clamped to `bounds`, to numbers of their type inside them.

    An `x` that is the rounded bound itself may stay where it is.
    """
    low, high = inside = _representable(bounds, x.dtype)
    if inside == tuple(map(float, torch.tensor(bounds, dtype=x.dtype))):
        return moved.clamp(low, high)
    return torch.minimum(torch.maximum(moved, x.clamp(max=low)), x.clamp(min=high))


def in_reach(x: Tensor, moved: Tensor, ball: Ball, bounds: Bounds) -> bool:
    """Return whether inputs (B, ...) are in the ball around `x` and in `bounds`, without slack."""
    low, high = _representable(bounds, x.dtype)
    near = ball.norm(exact_change(x, moved)) <= ball.radius
    valid = (moved >= x.clamp(max=low)) & (moved <= x.clamp(min=high))
    return bool(near.all()) and bool(valid.all())


def _representable(bounds: Bounds, dtype: torch.dtype) -> Bounds:
    """Return the lowest and the highest number of a type inside bounds."""
    low, high = (torch.tensor(bound, dtype=dtype) for bound in bounds)
    if float(low) < bounds[0]:
        low = torch.nextafter(low, torch.full_like(low, float("inf")))
    if float(high) > bounds[1]:
        high = torch.nextafter(high, torch.full_like(high, float("-inf")))
    return float(low), float(high)
