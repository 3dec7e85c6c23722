"""Random models: what an attacker must average, and a defence that is such a mean.

An attack on a defence that draws random numbers needs the expected gradient: the expectation over
transformation of Athalye et al. 2018 (section 4.2), `ExpectationOverDraws`. Whether an attack gains
by other means is to be tried: the mean of the logits instead, or `SameDraws` in every step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from servax.attacks import Problem, cross_entropy, logits_of
from servax.attacks.base import check_inputs
from servax.kinds import COUNT, POSITIVE, Choice, Rule, typed
from servax.models import SmoothedClassifier, evaluating, log_mean
from servax.perturbation import input_gradient
from servax.training import global_seed

Mean = Literal["probabilities", "logits"]


def generators_of(model: nn.Module) -> list[torch.Generator]:
    """Return the generators that a model draws from, of the defence before the model."""
    found = (getattr(module, "generator", None) for module in model.modules())
    return [each for each in found if isinstance(each, torch.Generator)]


class SameDraws(nn.Module):
    """The same model, drawing the same numbers in each pass; what it draws from stays as it was.

    An attacker who goes through it fits one noise, which the defence will not draw again.
    """

    knowledge = "adaptive"
    """What an attack through it knows."""

    @typed
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, ...)."""
        states = {each: each.get_state() for each in generators_of(self.model)}
        try:
            for each in states:
                each.manual_seed(0)
            with global_seed(0, "held"):
                return logits_of(self.model, x)
        finally:
            for each, state in states.items():
                each.set_state(state)


class ExpectationOverDraws(nn.Module):
    """Maps inputs (B, ...) to the log of the mean of the class probabilities over draws, (B, C).

    That is what a random model says on average; its gradient is the expected one that an attack
    needs, since a single draw's points elsewhere. The graphs of all draws are held at once, but for
    waveforms, of which they do not fit.

    Args:
        model: A random classifier; each call draws anew.
        draws: How many calls make one.
        mean: Of the `probabilities`, or of the `logits`, whose gradient does not vanish in a draw
            that is sure.
    """

    knowledge = "adaptive"
    """What an attack through it knows."""

    @typed
    def __init__(self, model: nn.Module, draws: int, mean: Mean = "probabilities") -> None:
        super().__init__()
        COUNT.check("draws", draws)
        Choice(get_args(Mean)).check("mean", mean)
        self.model = model
        self.draws = int(draws)
        self.mean = mean
        self._again = draws_inside(model) > 1
        """Whether the model computes draws of its own again already."""
        self._rewinds: bool | None = None

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities (B, C): logits up to a constant per utterance."""
        each = [self.one_draw(x) for _ in range(self.draws)]
        if self.mean == "logits":
            return torch.stack(each).mean(dim=0).log_softmax(dim=1)
        return log_mean(each)

    def one_draw(self, x: Tensor) -> Tensor:
        """Return the logits (B, C) of one call of the model."""
        if x.dim() > 2 or self.draws == 1 or self._again or not torch.is_grad_enabled():
            return logits_of(self.model, x)
        if self._rewinds is None:
            self._rewinds = rewinds(self.model, x[:1])
        if not self._rewinds:  # of what it draws from elsewhere, the gradient needs the first draw
            return logits_of(self.model, x)
        return computed_again(partial(logits_of, self.model), x, generators_of(self.model))


@torch.no_grad()
def rewinds(model: nn.Module, x: Tensor) -> bool:
    """Say whether a model draws again what it drew, once its generators and torch's are put back.

    One that draws from elsewhere (NumPy, a generator under another name) does not.

    Args:
        model: Its generators are left as they were.
        x: An input (1, ...).
    """
    drawing, said = generators_of(model), []
    states = [each.get_state() for each in drawing]
    for _ in range(2):
        with global_seed(0, "rewound"):
            said.append(logits_of(model, x))
        for each, state in zip(drawing, states, strict=True):
            each.set_state(state)
    return torch.equal(*said)


def computed_again(
    call: Callable[[Tensor], Tensor], x: Tensor, drawing: Sequence[torch.Generator]
) -> Tensor:
    """Return ``call(x)`` without its graph, which is computed once more when it is needed.

    The graphs of many draws of a sound do not fit in memory: 64 of 16 sounds of 4 s, heard by a
    small Whisper, take 30 GB. Called again, it draws what it drew.

    Args:
        call: From inputs (B, ...) to logits (B, C).
        x: The inputs.
        drawing: What it draws from.
    """
    states, calls = [each.get_state() for each in drawing], itertools.count()

    def once_more(x: Tensor) -> Tensor:
        if next(calls) == 0:
            return call(x)
        later = [each.get_state() for each in drawing]
        try:
            for each, state in zip(drawing, states, strict=True):
                each.set_state(state)
            return call(x)
        finally:
            for each, state in zip(drawing, later, strict=True):
                each.set_state(state)

    found: Tensor = checkpoint(once_more, x, use_reentrant=False)
    return found


def draws_inside(model: nn.Module) -> int:
    """Return over how many draws a model takes the mean by itself, for each answer."""
    inside = 1
    for module in model.modules():
        if isinstance(module, SmoothedClassifier):
            inside *= module.noise.draws
        elif isinstance(module, ExpectationOverDraws):
            inside *= module.draws
    return inside


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
    COUNT.check("most", most)
    Rule("a number in (0, 1)", lambda v: 0 < v < 1).check("tolerance", tolerance)
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


class Smoothed(ExpectationOverDraws):
    """A classifier of inputs (B, ...) that averages the probabilities of `model` over noise.

    Its logits are the logarithm of the mean probability, so gradients pass, exact ones per draw
    (the soft version of Salman et al. 2019; Cohen et al. count classes, as
    `servax.defences.certify` does).

    Args:
        model: From inputs (B, ...) to logits (B, C).
        standard_deviation: Of the noise, in the input's unit.
        draws: Noisy copies of each input.
        generator: Draws the noise (on the CPU); each call draws anew.
    """

    @typed
    def __init__(
        self, model: nn.Module, standard_deviation: float, draws: int, generator: torch.Generator
    ) -> None:
        POSITIVE.check("standard_deviation", standard_deviation)
        super().__init__(model, draws)
        self.standard_deviation = standard_deviation
        self.generator = generator

    def one_draw(self, x: Tensor) -> Tensor:
        """Return the logits (B, C) of noisy inputs."""
        return logits_of(self.model, noisy(x, self.standard_deviation, self.generator))


def noisy(x: Tensor, standard_deviation: float, generator: torch.Generator) -> Tensor:
    """Return inputs (B, ...) with white Gaussian noise, which is not clamped."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + standard_deviation * noise
