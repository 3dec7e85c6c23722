"""Attacks one after the other: each gets only the utterances that the ones before left correct.

Per utterance the worst case is kept, which is what a defence must stand; the lowest of several
mean scores would hide it.

`AutoAttack`: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", the versions `standard` and `rand`. Differs in: FAB's place is
taken by a newer minimum-norm attack through foolbox, FMN (Pintor et al. 2021), in L2 by DDN (Rony
et al. 2019); targets are all other classes, where the authors take at most nine; with fewer than
four classes plain differences of logits stand for the targeted DLR; Auto-PGD and Square are ours,
and differ as their files say.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, Unpack

import torch
from torch import Tensor, nn

from servax.attacks.auto_pgd import APGD, TargetedAPGD
from servax.attacks.base import Attack, Given, Labels, Norm, Problem
from servax.attacks.early_stopping import Strongest
from servax.attacks.foolbox import Foolbox
from servax.attacks.square import Square
from servax.errors import SettingError
from servax.kinds import COUNT, Choice, Rules, check_kind, check_rules, renamed
from servax.perturbation import Bounds, Limit, Linf

Version = Literal["standard", "rand"]
RAND_DRAWS = 20
"""Draws whose mean is one gradient of a random defence, in the authors' `rand` version."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What an ensemble has reached, a row per utterance."""

    adversarial: Tensor
    """What fooled, else the input (clean ones included) of the highest margin, (B, ...)."""
    fooled: Tensor
    """Whether the attacker has what they want, bool (B,)."""
    attempt: Tensor
    """Which attempt fooled first, int64 (B,), from 0; -1 where none did or none was needed."""


@dataclass(frozen=True)
class Ensemble(Attack):
    """Attempts on what still stands. Bounds, labels and aim are those of the attempts."""

    bounds: Bounds = field(init=False)
    labels: Labels = field(init=False)
    targeted: bool = field(init=False)

    def __post_init__(self) -> None:
        check_rules(self)
        attempts = self.attempts
        for attack in attempts:
            check_kind("attack", attack, Attack)
        if not attempts:
            raise SettingError("attacks", [], "at least one attack")
        for name in ("bounds", "labels", "targeted", "in_16_bits"):
            values = [getattr(attack, name) for attack in attempts]
            if any(value != values[0] for value in values):
                raise SettingError(f"the attacks' {name}", values, "the same for all")
            if name != "in_16_bits":
                object.__setattr__(self, name, values[0])
        super().__post_init__()

    @property
    def in_16_bits(self) -> bool:
        """Whether samples are rounded to 16 bits."""
        return self.attempts[0].in_16_bits

    @property
    @abstractmethod
    def attempts(self) -> Sequence[Attack]:
        """The attacks, in the order in which they are tried."""

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the strongest inputs after each attempt that was needed."""
        for outcome in self.outcomes(problem):
            yield outcome.adversarial

    def outcomes(self, problem: Problem) -> Iterator[Outcome]:
        """Yield what is reached with clean inputs, then after each attempt that is needed."""
        strongest, attempt = Strongest(problem.x), torch.full_like(problem.y, -1)
        every = torch.arange(len(problem.x), device=problem.x.device)
        strongest.judge(problem, every, problem.x, problem.scores(problem.x))
        yield Outcome(adversarial=strongest.inputs, fooled=strongest.fooled, attempt=attempt)
        for number, attack in enumerate(self.attempts):
            rows = strongest.standing()
            if len(rows) == 0:
                return
            part = problem.at(rows)
            found = attack.result(part)
            fooled = strongest.judge(part, rows, found, part.scores(found))
            attempt = attempt.index_fill(0, rows[fooled], number)
            yield Outcome(adversarial=strongest.inputs, fooled=strongest.fooled, attempt=attempt)

    def run(self, model: nn.Module, x: Tensor, y: Tensor, **given: Unpack[Given]) -> Outcome:
        """Return what a call returns, and which utterances fooled; arguments as for a call."""
        with self.facing(model, x, y, **given) as problem:
            problem = self.rounding(problem)
            *_, last = self.outcomes(problem)
        return replace(last, adversarial=self.held(problem, last.adversarial))


@dataclass(frozen=True)
class Restarts(Ensemble):
    """One random attack several times, each time from other draws."""

    attack: Attack
    """What is repeated; without anything random in it, once would do."""
    count: int = 5
    """How many times at most."""

    RULES: ClassVar[Rules] = {"count": COUNT}

    @property
    def ball(self) -> Limit:
        """The ball of the attack."""
        return self.attack.ball

    def of_sizes(self, epsilons: Sequence[float]) -> list[Self]:
        """Return restarts of the attack with each size of its ball, the smallest first."""
        return [replace(self, attack=sized) for sized in self.attack.of_sizes(epsilons)]

    @property
    def attempts(self) -> Sequence[Attack]:
        """The attack, `count` times."""
        return (self.attack,) * int(self.count)


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """APGD on cross-entropy, targeted APGD on DLR, a minimum-norm attack, then Square.

    Each gets only the utterances that still stand; `run` tells which attempt broke which. Needs
    the extra ``attacks`` (foolbox). The version `rand`, for defences that draw random
    numbers, is APGD on cross-entropy and on DLR; it faces the mean of the defence over
    `RAND_DRAWS` draws (`servax.defences.ExpectationOverDraws`), and needs no foolbox.
    """

    epsilon: float = 0.02
    """Size of the ball around the clean input, in units of the input."""
    norm: Norm = Linf
    """`Linf` or `L2`."""
    steps: int = 100
    """Steps of each gradient attack, per target class where it has targets."""
    queries: int = 5000
    """Queries of Square."""
    bounds: Bounds = (0.0, 1.0)
    """Lowest and highest value of a valid input."""
    labels: Labels = "true"
    """Attack the `true` label (standard), or the model's own `predicted` one."""
    version: Version = "standard"
    """`standard`, or `rand` for random defences."""

    RULES: ClassVar[Rules] = {"version": Choice(("standard", "rand"))}

    @property
    def ball(self) -> Limit:
        """The ball of the norm and radius."""
        return self.norm(self.epsilon)

    @property
    def attempts(self) -> Sequence[Attack]:
        """The four attacks of the standard version, or the two of `rand`."""
        ball: dict[str, Any] = {"epsilon": self.epsilon, "norm": self.norm, "bounds": self.bounds}
        first = APGD(steps=self.steps, labels=self.labels, **ball)
        if self.version == "rand":
            return first, replace(first, loss="dlr")
        return (
            first,
            TargetedAPGD(steps=self.steps, labels=self.labels, **ball),
            replace(Foolbox.preset("nearest", steps=self.steps, **ball), labels=self.labels),
            Square(queries=self.queries, labels=self.labels, **ball),
        )
