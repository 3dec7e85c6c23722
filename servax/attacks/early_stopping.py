"""Which utterances still stand: those that are fooled leave the batch, and keep what fooled them.

Attacks that look at the logits of each step use these parts. The model then sees the open rows
only, which is most of what makes an audit cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from servax.attacks.base import Problem
from servax.attacks.logits import Loss, margin
from servax.perturbation import Limit, input_gradient, into_reach, per_utterance

Gain = Callable[[Tensor, Tensor], Tensor]
"""From logits (m, K) and the rows (m,) they belong to, to what the attacker raises, (m,)."""
Show = Callable[[Tensor, Tensor], Tensor]
"""From inputs (m, ...) and the rows (m,) they belong to, to what the model sees in their place."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one forward and one backward pass tell of inputs (m, ...)."""

    gradient: Tensor
    """Gradient of the gain, (m, ...)."""
    gain: Tensor
    """What the attacker raises, (m,)."""
    fooled: Tensor
    """Whether the attacker has what they want, bool (m,)."""


def look(problem: Problem, z: Tensor, gain: Callable[[Tensor], Tensor]) -> View:
    """Return gradient, gain and success at inputs `z`, from one pass each way."""
    seen: list[tuple[Tensor, Tensor]] = []

    def objective(leaf: Tensor) -> Tensor:
        logits = problem.logits(problem.heard(leaf))
        value = gain(logits)
        seen.append((value.detach(), logits.detach()))
        return value

    gradient = input_gradient(objective, z)
    [(value, logits)] = seen
    return View(gradient=gradient, gain=value, fooled=problem.fooled(logits))


class Strongest:
    """The strongest input so far of each utterance: one that fools, and of those the highest value.

    Args:
        inputs: What stands for each utterance (n, ...) before anything is known.
    """

    def __init__(self, inputs: Tensor) -> None:
        count = len(inputs)
        self.inputs = inputs
        self.fooled = torch.zeros(count, dtype=torch.bool, device=inputs.device)
        self.value = torch.full((count,), float("-inf"), dtype=torch.float64, device=inputs.device)

    def offer(self, rows: Tensor, inputs: Tensor, fooled: Tensor, value: Tensor) -> Tensor:
        """Take the inputs (m, ...) of `rows` (m,) that are stronger; return which, bool (m,)."""
        value = value.to(self.value.dtype)
        before, had = self.fooled[rows], self.value[rows]
        better = (fooled & ~before) | ((fooled == before) & (value > had))
        taken = rows[better]
        self.inputs = self.inputs.index_copy(0, taken, inputs[better])
        self.fooled = self.fooled.index_copy(0, taken, fooled[better])
        self.value = self.value.index_copy(0, taken, value[better])
        return better

    def judge(self, problem: Problem, rows: Tensor, inputs: Tensor, logits: Tensor) -> Tensor:
        """Offer inputs (m, ...) of `rows` (m,) by their margin; return which fool, bool (m,).

        `problem` is that of the rows, `logits` (m, K) are those of the inputs.
        """
        fooled = problem.fooled(logits)
        self.offer(rows, inputs, fooled, problem.gain(margin, logits))
        return fooled

    def standing(self) -> Tensor:
        """Return the rows (m,) that are not fooled."""
        return (~self.fooled).nonzero().flatten()


def to_attack(problem: Problem, *, early_stop: bool) -> Tensor:
    """Return the rows (m,) an attack begins with: without `early_stop` all of them.

    With `early_stop` one forward pass tells which clean inputs the attacker need not touch.
    """
    if not early_stop:
        return torch.arange(len(problem.x), device=problem.x.device)
    return (~problem.fooled(problem.scores(problem.x))).nonzero().flatten()


def walk(
    problem: Problem,
    ball: Limit,
    *,
    loss: Loss,
    step: float,
    steps: int,
    start: Tensor | None = None,
    decay: float = 0.0,
    show: Show | None = None,
    early_stop: bool = False,
) -> Iterator[Tensor]:
    """Yield x_1 ... x_steps as `servax.perturbation.ascend` does, with what that does not know.

    Args:
        problem: What is attacked.
        ball: Allowed changes, before the mask.
        loss: What is raised, or lowered when targeted.
        step: Length of a step in the ball's norm.
        steps: How many.
        start: Where to begin, default the clean inputs.
        decay: Share of the earlier gradients in a step's direction; 0 takes the gradient alone.
        show: What the model sees instead of the inputs when a gradient is taken.
        early_stop: Stop moving an utterance once it is fooled, at once where the clean input does.
    """
    rows = to_attack(problem, early_stop=early_stop)
    result = problem.x
    if start is not None:
        reach = into_reach(problem.x, start, problem.within(ball), problem.bounds)
        result = result.index_copy(0, rows, reach[rows])
    velocity = torch.zeros_like(problem.x)
    for _ in range(steps):
        if len(rows) > 0:
            part, current = problem.at(rows), result[rows]
            seen = _gradient(part, current, rows, loss, show, early_stop=early_stop)
            stays = ~seen.fooled if early_stop else torch.ones_like(seen.fooled)
            rows, part = rows[stays], part.at(stays)
            inside, gradient = part.within(ball), seen.gradient[stays]
            if decay > 0:
                gradient = decay * velocity[rows] + _of_mean_one(part, gradient)
                velocity = velocity.index_copy(0, rows, gradient)
            moved = current[stays] + step * inside.steepest(gradient)
            moved = into_reach(part.x, moved, inside, part.bounds)
            result = result.index_copy(0, rows, moved)
        yield result


def _gradient(
    problem: Problem, z: Tensor, rows: Tensor, loss: Loss, show: Show | None, *, early_stop: bool
) -> View:
    """Return the view at `z`; where the model is shown something else, `fooled` is still of `z`."""
    if show is None:
        return look(problem, z, lambda logits: problem.gain(loss, logits))

    def objective(leaf: Tensor) -> Tensor:
        return problem.gain(loss, problem.logits(show(problem.heard(leaf), rows)))

    gradient = input_gradient(objective, z)
    nothing = torch.zeros(len(z), device=z.device)
    fooled = problem.fooled(problem.scores(z)) if early_stop else nothing.bool()
    return View(gradient=gradient, gain=nothing, fooled=fooled)


def _of_mean_one(problem: Problem, gradient: Tensor) -> Tensor:
    """Return the gradient, where inputs may change, divided by its mean magnitude (Dong, eq. 6)."""
    if problem.mask is not None:
        gradient = torch.where(problem.mask, gradient, torch.zeros_like(gradient))
    # Divided by the largest first: a sure model's gradients have a mean that underflows.
    tiny = torch.finfo(gradient.dtype).tiny
    largest = gradient.abs().flatten(1).amax(1).clamp(min=tiny)
    unit = gradient / per_utterance(largest, gradient)
    return unit / per_utterance(unit.abs().flatten(1).mean(1).clamp(min=tiny), unit)
