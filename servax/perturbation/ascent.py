"""The one projected-ascent loop; FGSM, PGD and SSA are settings of it.

Each step moves along the steepest direction of the ball's norm, projects the change back into the
ball and clamps to the range of valid inputs (equations 2, 3 and 11 of the paper; Madry et al.
2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from servax.errors import ServaxError
from servax.kinds import typed
from servax.perturbation.balls import Ball
from servax.perturbation.rounding import Bounds, into_ball, into_bounds

Objective = Callable[[Tensor], Tensor]
"""From inputs (B, ...) to the value to be raised, (B,) or a scalar sum over utterances."""


@typed
def ascend(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    *,
    step: float,
    steps: int,
    start: Tensor | None = None,
    bounds: Bounds = (0.0, 1.0),
) -> Iterator[Tensor]:
    """Yield x_1 ... x_steps, each inside the ball around `x` and inside `bounds`.

    Args:
        objective: What to raise. Utterances must not influence each other.
        x: Clean inputs (B, ...).
        ball: Allowed changes.
        step: Length of a step in the ball's norm.
        steps: How many; the iterator is lazy, so a caller may stop early.
        start: Where to begin, default `x`. Moved into ball and bounds first.
        bounds: Range of valid inputs.

    Yields:
        Detached inputs (B, ...) after each step.
    """
    current = x if start is None else into_reach(x, start, ball, bounds)
    for _ in range(steps):
        gradient = input_gradient(objective, current)
        current = into_reach(x, current + step * ball.steepest(gradient), ball, bounds)
        yield current


@typed
def input_gradient(objective: Objective, x: Tensor) -> Tensor:
    """Return the gradient of the summed objective with respect to the inputs, detached.

    Raises:
        ServaxError: No gradient reaches the inputs, or it is not finite.
    """
    # A step is computed with gradients on even when the caller scores without them.
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        value = objective(leaf).sum()
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if gradient is None:
        raise ServaxError(
            "no gradient reaches the input: some part of the model is not differentiable or "
            "detaches its output; expected a model that torch.autograd can follow."
        )
    # The sign of NaN is 0: unseen, a broken model would pass for a robust one.
    if not bool(gradient.isfinite().all()):
        raise ServaxError(
            "the gradient is NaN or infinite: the model's output or its derivative is not finite "
            "at this input, check the model's weights and the range of the input."
        )
    return gradient.detach()


@typed
def into_reach(x: Tensor, moved: Tensor, ball: Ball, bounds: Bounds) -> Tensor:
    """Return `moved` projected into the ball around `x`, then clamped to `bounds`.

    No rounding leaves either: an attack of one's own ends with this.
    """
    moved = into_bounds(x, x + ball.project(moved - x), bounds)
    return into_ball(x, moved, ball).detach()
