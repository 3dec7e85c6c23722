"""Auto-PGD: PGD that sets its own step from whether the loss still rises.

Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks". The step is halved, and the walk goes on from the best point so far, when
the loss rises too seldom (condition 1) or its maximum stands still (condition 2). Where the paper
and the authors' code differ, this follows the code in two things: condition 1 also holds at
equality, and the loss of a point that was jumped away from still counts for the next comparison. In
the others (checkpoints rounded up, the first comparison is with the start) it follows the paper.
Differs from both in: every random start is uniform in the ball, where theirs are on its surface.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from servax.attacks.base import BallAttack, Problem, last_of
from servax.attacks.early_stopping import Gain, Strongest, View, look, to_attack
from servax.attacks.logits import LOSSES, LossName, dlr_targeted
from servax.errors import SettingError
from servax.kinds import COUNT, Choice, Rule, Rules, renamed
from servax.perturbation import Limit, into_reach, per_utterance

MOMENTUM = 0.75
"""Share of the new step in a move; the rest is the last move (alpha in the paper)."""


@dataclass(frozen=True, kw_only=True)
class AutoPGD(BallAttack):
    """What both kinds share; `steps` is all there is to choose."""

    steps: int = 100
    """Number of steps (per class towards which it leads); each costs one gradient, and the start
    one more."""
    rho: float = 0.75
    """The step is halved when the loss rose in at most this share of the steps of a window."""
    random_start: bool = True
    """Begin at a random point of the ball instead of the clean input."""
    early_stop: bool = True
    """Stop once an utterance is fooled; otherwise its loss is raised to the end (for transfer)."""

    RULES: ClassVar[Rules] = {
        "steps": COUNT,
        "rho": Rule("a number in (0, 1), .75 in the paper", lambda rho: 0 < rho < 1),
    }

    def _start(self, problem: Problem) -> Tensor:
        """Return where each utterance begins, (n, ...), inside the ball and the bounds."""
        if not self.random_start:
            return problem.x
        inside = problem.within(self.ball)
        moved = problem.x + inside.sample(problem.x, problem.random())
        return into_reach(problem.x, moved, inside, problem.bounds)

    def _ascend(self, problem: Problem, gain: Gain, start: Tensor) -> Iterator[Tensor]:
        """Yield the strongest inputs (n, ...) at the start and after each step of algorithm 1.

        Args:
            problem: What is attacked.
            gain: What is raised.
            start: Where to begin, inside ball and bounds.
        """
        rows = to_attack(problem, early_stop=self.early_stop)
        strongest = Strongest(problem.x.index_copy(0, rows, start[rows]))
        if len(rows) == 0:
            yield strongest.inputs
            return

        def seen_at(rows: Tensor, z: Tensor) -> View:
            return look(problem.at(rows), z, lambda logits: gain(logits, rows))

        seen = seen_at(rows, start[rows])
        state = _State(rows, start[rows], seen, problem.within(self.ball).radius)
        strongest.offer(rows, state.current, seen.fooled, seen.gain)
        yield strongest.inputs
        steps = int(self.steps)
        windows = {end: end - begin for begin, end in pairwise([0, *checkpoints(steps)])}
        for number in range(1, steps + 1):
            if self.early_stop:
                state.keep(~seen.fooled)
            if len(state.rows) == 0:
                return
            state.move(problem.at(state.rows), self.ball, 1.0 if number == 1 else MOMENTUM)
            seen = seen_at(state.rows, state.current)
            strongest.offer(state.rows, state.current, seen.fooled, seen.gain)
            state.note(seen)
            if number in windows:
                state.check(windows[number], self.rho)
            yield strongest.inputs


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class APGD(AutoPGD):
    """Auto-PGD on one loss."""

    loss: LossName = "cross-entropy"
    """What is raised: `cross-entropy`, `dlr` or `margin`."""

    RULES: ClassVar[Rules] = {"loss": Choice(LOSSES)}

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the strongest inputs, start first: those that fool, else of the highest loss."""
        loss = LOSSES[self.loss]

        def gain(logits: Tensor, rows: Tensor) -> Tensor:
            return problem.at(rows).gain(loss, logits)

        return self._ascend(problem, gain, self._start(problem))


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(AutoPGD):
    """Auto-PGD towards one other class after the other, the most likely first.

    What counts is still that the model leaves `y`. The targeted DLR needs four classes; with fewer
    the difference of the two logits stands in its place.
    """

    targets: int | None = None
    """Lead towards so many of the other classes at most; None is all of them."""

    RULES: ClassVar[Rules] = {"targets": COUNT}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targeted:
            raise SettingError(
                "targeted",
                self.targeted,
                "False: this attack leads away from y through each other class; for a wanted class "
                "use APGD(targeted=True)",
            )

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the strongest inputs after each class: those that fool, else of highest margin."""
        if self.random_start:
            problem.random()
        logits = problem.scores(problem.x)
        likely = logits.scatter(1, problem.y.unsqueeze(1), -math.inf).argsort(1, descending=True)
        count = min(int(self.targets or logits.shape[1]), logits.shape[1] - 1)
        every = torch.arange(len(logits), device=logits.device)
        strongest = Strongest(problem.x)
        if self.early_stop:
            strongest.judge(problem, every, problem.x, logits)
        yield strongest.inputs
        for towards in likely[:, :count].unbind(1):
            rows = strongest.standing() if self.early_stop else every
            if len(rows) == 0:
                return
            found = self._towards(problem, rows, towards[rows])
            part = problem.at(rows)
            strongest.judge(part, rows, found, part.scores(found))
            yield strongest.inputs

    def _towards(self, problem: Problem, rows: Tensor, towards: Tensor) -> Tensor:
        """Return the inputs of `rows` (m,) led towards the classes (m,)."""
        start = self._start(problem)
        part = problem.at(rows)

        def gain(logits: Tensor, within: Tensor) -> Tensor:
            # Copies, since tensors made in inference mode could not be saved for the backward pass.
            return dlr_targeted(logits, part.y[within].clone(), towards[within].clone())

        return last_of(self._ascend(part, gain, start[rows]), part.x)


def checkpoints(steps: int) -> list[int]:
    """Return after which steps the step's length is judged: w_j = ceil(p_j steps), section 3."""
    shares = [0.0, 0.22]
    while shares[-1] < 1.0:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # 1e-9: sums of such shares are not exact, and .57 * 100 must stay 57.
    return sorted({math.ceil(share * steps - 1e-9) for share in shares[1:] if share <= 1.0})


class _State:
    """What Auto-PGD remembers of the open utterances, a row for each of m.

    `rows` are their places in the problem, (m,). Each is at `current`, was at `previous` one step
    ago, has its `gradient` there, and had its `gain` there before any jump back. The gain was
    highest, `best_gain`, at `best`; at the last checkpoint the highest was `checked_gain`, and it
    was `halved` there or not. It `rises` in so many steps since, each `step` (m, 1, ...) long.
    """

    def __init__(self, rows: Tensor, start: Tensor, seen: View, radius: float) -> None:
        self.rows = rows
        self.current = self.previous = self.best = start
        self.gradient = self.best_gradient = seen.gradient
        self.gain = self.best_gain = self.checked_gain = seen.gain
        self.step = per_utterance(start.new_full(rows.shape, 2.0 * radius), start)
        self.rises = torch.zeros_like(rows)
        self.halved = torch.ones_like(seen.fooled)

    def keep(self, stays: Tensor) -> None:
        """Forget the utterances that do not stay, bool (m,)."""
        if not bool(stays.all()):
            for name, value in vars(self).items():
                setattr(self, name, value[stays])

    def move(self, problem: Problem, ball: Limit, momentum: float) -> None:
        """Take a step with momentum; `problem` is that of these rows."""
        inside = problem.within(ball)
        last = self.current - self.previous
        stepped = self.current + self.step * inside.steepest(self.gradient)
        stepped = into_reach(problem.x, stepped, inside, problem.bounds)
        moved = self.current + momentum * (stepped - self.current) + (1.0 - momentum) * last
        self.previous = self.current
        self.current = into_reach(problem.x, moved, inside, problem.bounds)

    def note(self, seen: View) -> None:
        """Remember what was seen at `current`."""
        self.rises = self.rises + (seen.gain > self.gain)
        self.gradient, self.gain = seen.gradient, seen.gain
        better = seen.gain > self.best_gain
        rows = per_utterance(better, self.best)
        self.best = torch.where(rows, self.current, self.best)
        self.best_gradient = torch.where(rows, seen.gradient, self.best_gradient)
        self.best_gain = torch.where(better, seen.gain, self.best_gain)

    def check(self, window: int, rho: float) -> None:
        """Halve the step and go back to the best point where conditions 1 or 2 hold."""
        seldom = self.rises <= rho * window
        stuck = ~self.halved & (self.checked_gain >= self.best_gain)
        self.halved = seldom | stuck
        rows = per_utterance(self.halved, self.step)
        self.step = torch.where(rows, self.step / 2, self.step)
        self.current = torch.where(rows, self.best, self.current)
        self.gradient = torch.where(rows, self.best_gradient, self.gradient)
        self.checked_gain = self.best_gain
        self.rises = torch.zeros_like(self.rises)
