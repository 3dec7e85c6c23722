"""A defended model is a model; and what an attacker who knows the defence puts in its place.

BPDA and EOT: Athalye et al. 2018, "Obfuscated gradients give a false sense of security". The
backward pass differentiable approximation (section 4.1, with the identity) is for defences without
a useful gradient, the expectation over transformation (section 4.2) for random ones. All are
classifiers, so every attack works on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from servax.attacks.base import check_count, check_inputs
from servax.attacks.problem import Problem, cross_entropy, logits_of
from servax.errors import SettingError, ShapeError
from servax.kinds import typed
from servax.models import evaluating
from servax.perturbation import input_gradient


class Defended(nn.Module):
    """Maps inputs (B, 1, M, F) to the logits (B, C) of `model` behind `defence`.

    Attacking it with gradients is the adaptive attack; attacking `model` alone and scoring here is
    the oblivious one.
    """

    @typed
    def __init__(self, model: nn.Module, defence: nn.Module) -> None:
        super().__init__()
        self.defence = defence
        self.model = model

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C); exact gradients pass through the defence."""
        # Copies, since both may write into what they are given.
        logits: Tensor = self.model(self.defence(x.clone()).clone())
        return logits


class StraightThrough(nn.Module):
    """Maps inputs (B, ...) to what `step` makes of them; backward it is the identity.

    Args:
        step: What has no gradient, from a shape to the same shape; it may leave torch.
        what: How refusals call it.
    """

    knowledge = "bpda"
    """What an attack through it knows."""

    def __init__(self, step: Callable[[Tensor], Tensor], *, what: str = "the step") -> None:
        super().__init__()
        self.step = step
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        """Return what the step makes of inputs (B, ...).

        Raises:
            ShapeError: The step changes the shape: the identity cannot stand for it.
        """
        with torch.no_grad():
            stepped = self.step(x.detach().clone())
        if stepped.shape != x.shape:
            raise ShapeError(
                f"{self.what}'s output",
                stepped.shape,
                f"that of its input, {tuple(x.shape)}: BPDA takes {self.what} for the identity",
            )
        # x - x is 0 and its gradient the identity's, so that forward nothing is rounded.
        passed: Tensor = stepped + (x - x.detach())
        return passed


class Bpda(Defended):
    """Maps inputs (B, ...) to the logits (B, C) of `model` behind a `defence` without gradients.

    Forward it is exactly ``model(defence(x))``; backward the defence is taken for the identity.

    Raises:
        ShapeError: In `forward`: the defence changes the shape.
    """

    knowledge = "bpda"
    """What an attack through it knows."""

    @typed
    def __init__(self, model: nn.Module, defence: nn.Module) -> None:
        super().__init__(model, StraightThrough(defence, what="the defence"))


class ExpectationOverDraws(nn.Module):
    """Maps inputs (B, ...) to the log of the mean of the class probabilities over draws, (B, C).

    That is what a random model says on average; its gradient is the expected one that an attack
    needs, since a single draw's points elsewhere. The graphs of all draws are held at once: halve
    the batch where memory is short.

    Args:
        model: A random classifier; each call draws anew.
        draws: How many calls make one.
    """

    knowledge = "adaptive"
    """What an attack through it knows."""

    @typed
    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        check_count("draws", draws)
        self.model = model
        self.draws = int(draws)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities (B, C): logits up to a constant per utterance."""
        each = [self.one_draw(x).log_softmax(dim=1) for _ in range(self.draws)]
        return torch.stack(each).logsumexp(dim=0) - math.log(self.draws)

    def one_draw(self, x: Tensor) -> Tensor:
        """Return the logits (B, C) of one call of the model."""
        return logits_of(self.model, x)


@typed
def draws_until_flat(
    model: nn.Module, x: Tensor, y: Tensor, *, most: int = 64, tolerance: float = 0.1
) -> int:
    """Return how many draws an attack needs before more of them change nothing.

    The draws are doubled until two independent estimates of the gradient of the class loss point
    the same way: mean cosine over the utterances of at least 1 - `tolerance`. One for a model that
    is not random.

    Args:
        model: A random classifier, judged in evaluation mode.
        x: Clean inputs (B, ...); a few are enough.
        y: Their classes (B,).
        most: Where to stop: what more would buy is not worth its price.
        tolerance: How far the mean cosine may stay below 1.
    """
    check_count("most", most)
    if not 0 < tolerance < 1:
        raise SettingError("tolerance", tolerance, "a number in (0, 1)")
    check_inputs(x, y, (-math.inf, math.inf))
    draws = 1
    with evaluating(model):
        while draws < most:
            if 1.0 - _agreement(ExpectationOverDraws(model, draws), x, y) <= tolerance:
                return draws
            draws = min(2 * draws, int(most))
    return draws


def _agreement(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the mean cosine of two estimates of the gradient; 1 where both are zero."""
    objective = Problem(model=model, x=x, y=y).objective(cross_entropy)
    first, second = (input_gradient(objective, x).flatten(1).double() for _ in range(2))
    length = first.norm(dim=1) * second.norm(dim=1)
    cosine = (first * second).sum(dim=1) / length.clamp(min=torch.finfo(length.dtype).tiny)
    neither = (first == 0).all(dim=1) & (second == 0).all(dim=1)
    return float(torch.where(neither, torch.ones_like(cosine), cosine).mean())
