"""Attacks that ask for scores only: a budget of queries, and utterances that leave once fooled.

NES and SPSA are projected ascent along a gradient that is estimated from scores. Ilyas et al. 2018,
"Black-box adversarial attacks with limited queries and information" (NES, antithetic Gaussian
directions); Uesato et al. 2018, "Adversarial risk and the dangers of evaluating against weak
attacks" (SPSA, Rademacher directions). Departures: plain steepest steps, where the first has
momentum and the second Adam; every step ends with a question whether the model is fooled. Points of
the estimate may lie outside the bounds, by some `sigma`, as in both papers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack, check_count, check_positive, held
from servax.attacks.gradient import STRIDE
from servax.attacks.problem import LOSSES, LossName, Problem
from servax.errors import ServaxError, SettingError
from servax.kinds import renamed
from servax.perturbation import into_reach


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
        self._inputs = problem.x.clone()
        self._queries = torch.zeros_like(self.rows)
        self._fooled = torch.zeros_like(self.rows, dtype=torch.bool)
        self._gain = problem.x.new_full(problem.x.shape[:1], float("-inf"))

    @property
    def size(self) -> int:
        """How many utterances the whole batch has."""
        return len(self._queries)

    @property
    def done(self) -> bool:
        """Whether no utterance is open."""
        return len(self.rows) == 0

    @property
    def best(self) -> Tensor:
        """The best inputs (n, ...) of the open utterances."""
        return self._inputs[self.rows]

    def found(self) -> Found:
        """Return how far the search has come; a copy."""
        return Found(
            inputs=self._inputs.clone(),
            queries=self._queries.clone(),
            fooled=self._fooled.clone(),
        )

    def drop(self, stay: Tensor) -> None:
        """Keep only the open utterances where `stay` (n,) is true."""
        if not bool(stay.all()):
            self.open = self.open.at(stay)
            self.rows = self.rows[stay]

    def ask(self, z: Tensor, times: int = 1) -> Tensor:
        """Return the gains (times * n,) of `times` blocks of inputs (times * n, ...).

        Each block holds all open utterances in their order.
        """
        asked = self.open if times == 1 else self._repeated(times)
        return self._scored(asked, z, times)[0]

    def offer(self, z: Tensor, *, always: bool = False) -> Tensor:
        """Ask about inputs (n, ...) and keep those that are better; the fooled leave.

        Args:
            z: One input for each open utterance.
            always: Keep them even when they are worse.

        Returns:
            Which of the n utterances are still open, bool (n,).
        """
        gain, logits = self._scored(self.open, z, 1)
        fooled = self.open.fooled(logits)
        gain = gain.to(self._gain)
        better = fooled | (gain > self._gain[self.rows])
        if always:
            better = torch.ones_like(better)
        kept = self.rows[better]
        self._inputs[kept] = z[better]
        self._gain[kept] = gain[better]
        self._fooled[self.rows[fooled]] = True
        self.drop(~fooled)
        return ~fooled

    def _scored(self, asked: Problem, z: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """Count the queries; return gains (times * n,) and logits (times * n, K)."""
        self.asked += times
        self._queries[self.rows] += times
        logits = asked.scores(z)
        # NaN is never better than anything: unseen, a broken model would pass for a robust one.
        if not bool(logits.isfinite().all()):
            raise ServaxError(
                "the model's scores are NaN or infinite: check the model's weights and the range "
                "of the input."
            )
        return asked.gain(self.loss, logits), logits

    def _repeated(self, times: int) -> Problem:
        """Return the problem of `times` copies of the open utterances, one after the other."""
        return self.open.at(torch.arange(len(self.rows), device=self.rows.device).repeat(times))


@dataclass(frozen=True, kw_only=True)
class QueryAttack(BallAttack):
    """An attack that asks for scores and no gradient; a subclass fills `search`.

    The model's own label, with ``labels="predicted"``, is one query more than `queries`.
    """

    queries: int = 1000
    """Most questions asked about one utterance, the clean input among them."""
    loss: LossName = "margin"
    """What is raised: `margin`, `cross-entropy` or `dlr`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("queries", self.queries)
        if self.loss not in LOSSES:
            raise SettingError.choice("loss", self.loss, LOSSES)

    @abstractmethod
    def search(self, problem: Problem) -> Iterator[Found]:
        """Yield how far the search has come, at last the result."""

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the best inputs so far, about a hundred times."""
        for found in self.search(problem):
            yield found.inputs

    def counted(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Found:
        """Return the attack's result with the queries used; arguments and errors as for a call."""
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            for found in self.search(problem):
                result = found
        ball = problem.within(self.ball)
        return replace(result, inputs=held(problem.x, result.inputs, ball, self.bounds))


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
        check_count("samples", self.samples)

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
