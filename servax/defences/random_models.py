"""Random models: what an attacker must average, and what their mean promises.

An attack on a defence that draws random numbers needs the expected gradient: the expectation over
transformation of Athalye et al. 2018 (section 4.2), `ExpectationOverDraws`. Whether an attack gains
by other means is to be tried: the mean of the logits instead, or `SameDraws` in every step.

Randomised smoothing makes a defence of such a mean (Cohen, Rosenfeld & Kolter, ICML 2019). The
smoothed classifier g(x) is the class that a base classifier f returns most often for x plus white
Gaussian noise (eq. 1). Where that class has a probability of at least p > 1/2, no change of x
shorter than sigma Phi^-1(p) in the Euclidean norm moves g (theorem 1, with p_B = 1 - p_A). The
noise is not clamped: on clamped inputs the theorem does not hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from servax.attacks import Problem, cross_entropy, logits_of
from servax.attacks.base import check_inputs
from servax.features import check_tensor
from servax.kinds import COUNT, POSITIVE, Choice, Rule, typed
from servax.models import classes_of, evaluating
from servax.perturbation import input_gradient
from servax.training import global_seed

Mean = Literal["probabilities", "logits"]

ABSTAIN = -1
"""Stands in place of a class where no radius could be certified."""


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
    needs, since a single draw's points elsewhere. The graphs of all draws are held at once: halve
    the batch where memory is short.

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

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities (B, C): logits up to a constant per utterance."""
        each = [self.one_draw(x) for _ in range(self.draws)]
        if self.mean == "logits":
            return torch.stack(each).mean(dim=0).log_softmax(dim=1)
        each = [logits.log_softmax(dim=1) for logits in each]
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
    (the soft version of Salman et al. 2019; Cohen et al. count classes, as `certify` does here).

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
        return logits_of(self.model, _noisy(x, self.standard_deviation, self.generator))


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What randomised smoothing promises for each of B inputs."""

    prediction: Tensor
    """Class of the smoothed classifier, (B,) int64; `ABSTAIN` where none is sure enough."""
    radius: Tensor
    """Euclidean norm in the input's unit below which no change moves it, (B,) float64; 0 where it
    abstains."""

    @property
    def abstained(self) -> Tensor:
        """Where there is no prediction, (B,) bool."""
        return self.prediction == ABSTAIN

    def certified_accuracy(self, y: Tensor, radius: float) -> float:
        """Return the share of inputs that are right, and stay so under any change up to `radius`.

        Args:
            y: True classes (B,).
            radius: Euclidean norm in the input's unit.
        """
        right = (self.prediction == y.cpu()) & (self.radius > radius)
        return float(right.double().mean())


@typed
def certify(
    model: nn.Module,
    x: Tensor,
    *,
    standard_deviation: float,
    draws_to_select: int = 100,
    draws_to_estimate: int = 10_000,
    alpha: float = 0.001,
    generator: torch.Generator,
    batch_size: int = 100,
) -> Certificate:
    """Return a prediction and a radius for each input: algorithm CERTIFY of Cohen et al. 2019.

    Each certificate is wrong with a probability of at most `alpha`.

    Args:
        model: The base classifier f, from inputs (B, ...) to logits (B, C); in evaluation mode
            during the call.
        x: Inputs (B, ...).
        standard_deviation: Sigma, in the input's unit.
        draws_to_select: n0, noisy copies that choose the class.
        draws_to_estimate: n, further copies that bound its probability from below.
        alpha: Allowed probability of a wrong certificate.
        generator: Draws the noise (on the CPU).
        batch_size: Noisy copies in one pass.

    Raises:
        SettingError: A setting is outside its rule.
    """
    check_tensor("x", x)
    POSITIVE.check("standard_deviation", standard_deviation)
    COUNT.check("draws_to_select", draws_to_select)
    COUNT.check("draws_to_estimate", draws_to_estimate)
    COUNT.check("batch_size", batch_size)
    Rule("a probability in (0, 1)", lambda v: 0 < v < 1).check("alpha", alpha)

    def vote(clip: Tensor, draws: int) -> NDArray[np.int64]:
        """Return how often each class wins on noisy copies of an input (...): SampleUnderNoise."""
        counts = np.zeros(0, dtype=np.int64)
        for start in range(0, draws, batch_size):
            copies = clip.expand(min(batch_size, draws - start), *clip.shape)
            logits = logits_of(model, _noisy(copies, standard_deviation, generator))
            found = np.bincount(classes_of(logits).cpu(), minlength=logits.shape[1])
            counts = counts + found if len(counts) else found
        return counts

    predictions, radii = [], []
    with evaluating(model), torch.no_grad():
        for clip in x.detach():
            top = int(vote(clip, draws_to_select).argmax())
            hits = int(vote(clip, draws_to_estimate)[top])
            p = lower_bound(hits, draws_to_estimate, alpha)
            predictions.append(top if p > 0.5 else ABSTAIN)
            radii.append(standard_deviation * float(stats.norm.ppf(p)) if p > 0.5 else 0.0)
    return Certificate(
        prediction=torch.tensor(predictions, dtype=torch.int64),
        radius=torch.tensor(radii, dtype=torch.float64),
    )


def lower_bound(hits: int, draws: int, alpha: float) -> float:
    """Return a bound that a binomial probability exceeds with a probability of 1 - alpha.

    One-sided and exact (Clopper & Pearson 1934): LowerConfBound of Cohen et al. 2019.
    """
    return float(stats.beta.ppf(alpha, hits, draws - hits + 1)) if hits else 0.0


def _noisy(x: Tensor, standard_deviation: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + standard_deviation * noise
