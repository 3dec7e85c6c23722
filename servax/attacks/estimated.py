"""NES and SPSA: projected ascent along a gradient that is estimated from scores.

Ilyas et al. 2018, "Black-box adversarial attacks with limited queries and information" (NES,
antithetic Gaussian directions); Uesato et al. 2018, "Adversarial risk and the dangers of evaluating
against weak attacks" (SPSA, Rademacher directions). Departures: plain steepest steps, where the
first has momentum and the second Adam; every step ends with a question whether the model is fooled.
Points of the estimate may lie outside the bounds, by some `sigma`, as in both papers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from servax.attacks.gradient import STRIDE, check_whole
from servax.attacks.problem import Problem
from servax.attacks.queries import Found, QueryAttack, Search, check_positive
from servax.kinds import renamed
from servax.perturbation import into_reach


@dataclass(frozen=True, kw_only=True)
class EstimatedAscent(QueryAttack):
    """What NES and SPSA share: all but the directions of the questions."""

    step: float | None = None
    """Length of one step, in units of the input; default `STRIDE` of epsilon."""
    samples: int = 25
    """Pairs of questions per step; fewer in the last one when the budget ends."""
    sigma: float = 0.001
    """How far from the input the questions are, per element, in units of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None:
            check_positive("step", self.step)
        check_positive("sigma", self.sigma)
        check_whole("samples", self.samples)

    @abstractmethod
    def directions(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return independent elements of mean 0 and variance 1, shape and type of `like`."""

    def search(self, problem: Problem) -> Iterator[Found]:
        """Yield the search after each step; the input with the highest loss is its result."""
        generator = problem.random()
        step = STRIDE * self.epsilon if self.step is None else self.step
        search = Search(problem, self.loss)
        current = problem.x[search.offer(problem.x)]
        while not search.done and (pairs := self._pairs(search.asked)) > 0:
            gradient = self.gradient(search, current, pairs, generator)
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
        # As many rows at once as the batch had at first: few open utterances, many pairs together.
        together = max(1, search.size // len(current))
        for first in range(0, pairs, together):
            total += self._summed(search, current, min(together, pairs - first), generator)
        return total / pairs

    def _summed(
        self, search: Search, current: Tensor, pairs: int, generator: torch.Generator
    ) -> Tensor:
        """Return the sum of the estimates of some pairs, asked about together, (n, ...)."""
        centre = current.expand(pairs, *current.shape)
        u = self.directions(centre.flatten(0, 1), generator).view_as(centre)
        if search.open.mask is not None:
            u = u * search.open.mask
        points = torch.cat([centre + self.sigma * u, centre - self.sigma * u])
        above, below = search.ask(points.flatten(0, 1), 2 * pairs).view(2, pairs, -1)
        slope = ((above - below) / (2.0 * self.sigma)).to(u)
        return torch.einsum("pn...,pn->n...", u, slope)

    def _pairs(self, asked: int) -> int:
        """Return how many pairs the next step may ask, one question being left for its end."""
        return min(int(self.samples), (int(self.queries) - asked - 1) // 2)


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class NES(EstimatedAscent):
    """Natural evolution strategies: Gaussian directions."""

    def directions(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return standard normal elements."""
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class SPSA(EstimatedAscent):
    """Simultaneous perturbation stochastic approximation: directions of -1 and 1."""

    sigma: float = 0.01
    """How far from the input the questions are, per element, in units of the input."""

    def directions(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return elements that are -1 or 1, each as likely."""
        heads = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
        return (2 * heads - 1).to(like)
