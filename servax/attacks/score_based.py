"""Attacks that ask for scores only: a budget of queries, and utterances that leave once fooled.

NES and SPSA are projected ascent along a gradient that is estimated from scores. Ilyas et al. 2018,
"Black-box adversarial attacks with limited queries and information" (NES, antithetic Gaussian
directions); Uesato et al. 2018, "Adversarial risk and the dangers of evaluating against weak
attacks" (SPSA, Rademacher directions). Departures: plain steepest steps, where the first has
momentum and the second Adam; every step ends with a question whether the model is fooled. Points of
the estimate may lie outside the bounds, by some `sigma`, as in both papers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack, Given, Problem
from servax.attacks.early_stopping import Strongest
from servax.attacks.gradient import STRIDE
from servax.attacks.logits import LOSSES, LossName
from servax.errors import ServaxError
from servax.kinds import COUNT, POSITIVE, Choice, Rules, renamed
from servax.perturbation import SignalToNoise, into_reach, radius_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """How far a search has come, for every utterance of the batch."""

    inputs: Tensor
    """The best inputs so far (B, ...), the clean ones where nothing better was found."""
    queries: Tensor
    """How often the model was asked about each utterance (B,), int64."""
    fooled: Tensor
    """Whether the attacker has what they want (B,), bool."""


class Search:
    """The utterances of a problem that are still open, and the best that was found for each.

    `open` is their problem (n, ...), `rows` (n,) their places in the batch. All that are open have
    been asked about equally often: `asked` times.
    """

    def __init__(self, problem: Problem, loss: LossName) -> None:
        self.loss = LOSSES[loss]
        self.open = problem
        self.rows = torch.arange(len(problem.x), device=problem.x.device)
        self.asked = 0
        self.queries = torch.zeros_like(self.rows)
        self.strongest = Strongest(problem.x)

    @property
    def best(self) -> Tensor:
        """The best inputs (n, ...) of the open utterances."""
        return self.strongest.inputs[self.rows]

    def found(self) -> Found:
        """Return how far the search has come."""
        best = self.strongest
        return Found(inputs=best.inputs, queries=self.queries.clone(), fooled=best.fooled)

    def drop(self, stay: Tensor) -> None:
        """Keep only the open utterances where `stay` (n,) is true."""
        if not bool(stay.all()):
            self.open = self.open.at(stay)
            self.rows = self.rows[stay]

    def ask(self, z: Tensor, times: int = 1) -> tuple[Tensor, Tensor]:
        """Count the questions; return gains (times * n,) and whether they fool, bool (times * n,).

        Args:
            z: `times` blocks of inputs (times * n, ...), each of all open utterances in order.
            times: How many.
        """
        self.asked += times
        self.queries[self.rows] += times
        asked = self.open
        if times > 1:  # not to be kept, so not rounded either
            rows = torch.arange(len(self.rows), device=self.rows.device).repeat(times)
            asked = replace(self.open.at(rows), rounded_in=None)
        logits = asked.scores(z)
        # NaN is never better than anything: unseen, a broken model would pass for a robust one.
        if not bool(logits.isfinite().all()):
            raise ServaxError(
                "the model's scores are NaN or infinite: check the model's weights and the range "
                "of the input."
            )
        return asked.gain(self.loss, logits), asked.fooled(logits)

    def offer(self, z: Tensor, *, always: bool = False) -> Tensor:
        """Ask about inputs (n, ...) and keep those that are better; the fooled leave.

        Args:
            z: One input for each open utterance.
            always: Keep them even when they are worse.

        Returns:
            Which of the n utterances are still open, bool (n,).
        """
        gain, fooled = self.ask(z)
        if always:
            self.strongest.value[self.rows] = float("-inf")
        self.strongest.offer(self.rows, z, fooled, gain)
        self.drop(~fooled)
        return ~fooled


@dataclass(frozen=True, kw_only=True)
class QueryAttack(BallAttack):
    """An attack that asks for scores and no gradient; a subclass fills `search`.

    The model's own label, with ``labels="predicted"``, is one query more than `queries`.
    """

    queries: int = 1000
    """Most questions asked about one utterance, the clean input among them."""
    loss: LossName = "margin"
    """What is raised: `margin`, `cross-entropy` or `dlr`."""

    RULES: ClassVar[Rules] = {"queries": COUNT, "loss": Choice(LOSSES)}

    @abstractmethod
    def search(self, problem: Problem) -> Iterator[Found]:
        """Yield how far the search has come, at last the result."""

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the best inputs so far, about a hundred times."""
        for found in self.search(problem):
            yield found.inputs

    def counted(self, model: nn.Module, x: Tensor, y: Tensor, **given: Unpack[Given]) -> Found:
        """Return the attack's result with the queries used; arguments and errors as for a call."""
        with self.facing(model, x, y, **given) as problem:
            problem = self.rounding(problem)
            *_, result = self.search(problem)
        return replace(result, inputs=self.held(problem, result.inputs))


@dataclass(frozen=True, kw_only=True)
class EstimatedAscent(QueryAttack):
    """What NES and SPSA share: all but the directions of the questions."""

    step: float | None = None
    """Length of one step, in units of the input (for `SignalToNoise` a share of the ball); default
    `STRIDE` of the ball."""
    samples: int = 25
    """Pairs of questions per step; fewer in the last one when the budget ends."""
    sigma: float | None = None
    """How far from the input the questions are, per element, in units of the input; for
    `SignalToNoise` the length of the whole change, as a share of the ball. Default `NEAR`, there
    the same share as in the ball of .02."""

    NEAR: ClassVar[float]
    """In units of the input."""
    RULES: ClassVar[Rules] = {"step": POSITIVE, "sigma": POSITIVE, "samples": COUNT}

    @abstractmethod
    def directions(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return independent elements of mean 0 and variance 1, shape and type of `like`."""

    def search(self, problem: Problem) -> Iterator[Found]:
        """Yield the search after each step; the input with the highest loss is its result."""
        generator = problem.random()
        radius = problem.within(self.ball).radius
        step = STRIDE * radius if self.step is None else self.step
        search = Search(problem, self.loss)
        current = problem.x[search.offer(problem.x)]
        # One question of each step is left for its end.
        while (left := (int(self.queries) - search.asked - 1) // 2) > 0 and len(search.rows) > 0:
            gradient = self.gradient(search, current, min(int(self.samples), left), generator)
            ball = search.open.within(self.ball)
            moved = current + step * ball.steepest(gradient)
            current = into_reach(search.open.x, moved, ball, self.bounds)
            current = current[search.offer(current)]
            yield search.found()
        yield search.found()

    def gradient(
        self, search: Search, current: Tensor, pairs: int, generator: torch.Generator
    ) -> Tensor:
        """Return the estimated gradient of the loss at inputs (n, ...), zero outside the mask.

        The mean over the pairs of u (f(x + sigma u) - f(x - sigma u)) / (2 sigma).
        """
        total = torch.zeros_like(current)
        sigma = self._sigma(search.open.x)
        width = sigma.flatten() if isinstance(sigma, Tensor) else sigma
        # As many rows at once as the batch had at first: few open utterances, many pairs together.
        most = max(1, len(search.queries) // len(current))
        for first in range(0, pairs, most):
            together = min(most, pairs - first)
            centre = current.expand(together, *current.shape)
            u = self.directions(centre.flatten(0, 1), generator).view_as(centre)
            if search.open.mask is not None:
                u = u * search.open.mask
            points = torch.cat([centre + sigma * u, centre - sigma * u])
            gains, _ = search.ask(points.flatten(0, 1), 2 * together)
            above, below = gains.view(2, together, -1)
            slope = ((above - below) / (2.0 * width)).to(u)
            total += torch.einsum("pn...,pn->n...", u, slope)
        return total / pairs

    def _sigma(self, x: Tensor) -> Tensor | float:
        """Return how far the questions are from inputs x (n, ...): a number, or (n, 1, ...)."""
        if self.norm is not SignalToNoise:
            return self.NEAR if self.sigma is None else self.sigma
        share = self.NEAR / BallAttack.epsilon if self.sigma is None else self.sigma
        size = share * radius_of(self.ball.around(x), x) / math.sqrt(x[0].numel())
        # A silent utterance has no ball: its questions are all at one place, and so is its slope.
        return torch.as_tensor(size).clamp(min=torch.finfo(x.dtype).tiny)


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class NES(EstimatedAscent):
    """Natural evolution strategies: Gaussian directions."""

    NEAR = 0.001

    def directions(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return standard normal elements."""
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class SPSA(EstimatedAscent):
    """Simultaneous perturbation stochastic approximation: directions of -1 and 1."""

    NEAR = 0.01

    def directions(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return elements that are -1 or 1, each as likely."""
        heads = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
        return (2 * heads - 1).to(like)
