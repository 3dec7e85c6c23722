"""Attacks one after the other: each gets only the utterances that the ones before left correct.

Per utterance the worst case is kept, which is what a defence must stand; the lowest of several
mean scores would hide it. `Cascade` is AutoAttack's schedule (Croce & Hein 2020, section 5).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from servax.attacks.base import (
    Attack,
    Labels,
    held,
)
from servax.attacks.early_stopping import Strongest, last_of
from servax.attacks.gradient import check_whole
from servax.attacks.losses import margin
from servax.attacks.problem import Problem
from servax.errors import SettingError
from servax.kinds import check_kind, check_list
from servax.perturbation import Ball, Bounds


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a schedule has reached, a row per utterance."""

    adversarial: Tensor
    """What fooled, else the input (clean ones included) of the highest margin, (B, ...)."""
    fooled: Tensor
    """Whether the attacker has what they want, bool (B,)."""
    attempt: Tensor
    """Which attempt fooled first, int64 (B,), from 0; -1 where none did or none was needed."""


@dataclass(frozen=True)
class Schedule(Attack):
    """Attempts on what still stands. Bounds, labels and aim are those of the attempts."""

    bounds: Bounds = field(init=False)
    labels: Labels = field(init=False)
    targeted: bool = field(init=False)

    def __post_init__(self) -> None:
        attempts = self.attempts
        for attack in attempts:
            check_kind("attack", attack, Attack)
        if not attempts:
            raise SettingError("attacks", [], "at least one attack")
        for name in ("bounds", "labels", "targeted"):
            values = [getattr(attack, name) for attack in attempts]
            if any(value != values[0] for value in values):
                raise SettingError(f"the attacks' {name}", values, "the same for all")
            object.__setattr__(self, name, values[0])
        super().__post_init__()

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
        x = problem.x
        strongest = Strongest(x)
        attempt = torch.full_like(problem.y, -1)
        every = torch.arange(len(x), device=x.device)
        _offer(strongest, problem, every, x)
        yield _outcome(strongest, attempt)
        for number, attack in enumerate(self.attempts):
            rows = strongest.standing()
            if len(rows) == 0:
                return
            part = problem.at(rows)
            found = last_of(attack.iterates(part), part.x)
            ball = part.within(attack.ball_around(part.x))
            found = held(part.x, found, ball, self.bounds)
            fooled = _offer(strongest, part, rows, found)
            attempt = attempt.index_fill(0, rows[fooled], number)
            yield _outcome(strongest, attempt)

    def run(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Outcome:
        """Return what a call returns, and which utterances fooled; arguments as for a call."""
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            *_, last = self.outcomes(problem)
        return last


@dataclass(frozen=True)
class Cascade(Schedule):
    """Different attacks in the order given; the cheap ones first save the most."""

    attacks: Sequence[Attack]
    """What is tried; all share bounds, labels, aim and the kind of norm."""

    def __post_init__(self) -> None:
        check_list("attacks", self.attacks)
        object.__setattr__(self, "attacks", tuple(self.attacks))
        super().__post_init__()
        kinds = sorted({type(attack.ball).__name__ for attack in self.attempts})
        if len(kinds) > 1:
            raise SettingError(
                "the attacks' norms", kinds, "one for all: give each norm a schedule of its own"
            )

    @property
    def ball(self) -> Ball:
        """The largest ball of the attacks."""
        return max((attack.ball for attack in self.attempts), key=lambda ball: ball.radius)

    @property
    def attempts(self) -> Sequence[Attack]:
        """The attacks."""
        return self.attacks


@dataclass(frozen=True)
class Restarts(Schedule):
    """One random attack several times, each time from other draws."""

    attack: Attack
    """What is repeated; without anything random in it, once would do."""
    count: int = 5
    """How many times at most."""

    def __post_init__(self) -> None:
        check_whole("count", self.count)
        super().__post_init__()

    @property
    def ball(self) -> Ball:
        """The ball of the attack."""
        return self.attack.ball

    def ball_around(self, x: Tensor) -> Ball:
        """Return the changes that inputs `x` (B, ...) may undergo."""
        return self.attack.ball_around(x)

    @property
    def attempts(self) -> Sequence[Attack]:
        """The attack, `count` times."""
        return (self.attack,) * int(self.count)


def _offer(strongest: Strongest, problem: Problem, rows: Tensor, inputs: Tensor) -> Tensor:
    """Hand in inputs (m, ...) of `rows` (m,) by their margin; return which fool, bool (m,)."""
    logits = problem.scores(inputs)
    fooled = problem.fooled(logits)
    strongest.offer(rows, inputs, fooled, problem.gain(margin, logits))
    return fooled


def _outcome(strongest: Strongest, attempt: Tensor) -> Outcome:
    return Outcome(adversarial=strongest.inputs, fooled=strongest.fooled, attempt=attempt)
