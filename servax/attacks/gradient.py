"""FGSM, PGD and their kin for transfer: ascent on the classification loss; noise as their control.

FGSM, PGD: equations 10 and 11 of the paper; Goodfellow et al. 2015, Madry et al. 2018. The paper
prints neither PGD's step nor its radius; step .003 and epsilon .02 are ours (docs/method.md).

Momentum: MI-FGSM, Dong et al. 2018, "Boosting adversarial attacks with momentum" (algorithm 1).
Diverse inputs: Xie et al. 2019, "Improving transferability of adversarial examples with input
diversity" (DI-FGSM; with momentum M-DI-FGSM). Differs in: utterances are drawn for one by one, so
that none depends on its batch; both sides shrink by the same rate, so that H may differ from W; the
padding is the valid value nearest to zero, since zero need not be valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack, Given, Problem
from servax.attacks.early_stopping import Show, walk
from servax.attacks.logits import LOSSES, LossName, cross_entropy
from servax.errors import SettingError, ShapeError
from servax.kinds import COUNT, NOT_NEGATIVE, POSITIVE, Choice, Rule, Rules, renamed, typed
from servax.perturbation import (
    Ball,
    Objective,
    SignalToNoise,
    ascend,
    input_gradient,
    into_reach,
)
from servax.training import drawn

STRIDE = 0.15
"""Length of a step against the radius: .003 in .02, the paper's."""
SMALLEST_SHARE = 0.01
"""Least step in the ball of a ratio: the default, a length, would hardly move anything there."""


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient descent (eq. 11), `steps` steps of length `step` in a ball."""

    step: float = 0.003
    """Length of one step, in units of the input (.003 is .24 dB on the default scale); for
    `SignalToNoise` a share of the ball."""
    steps: int = 15
    """Number of steps, the paper's k."""
    random_start: bool = False
    """Begin at a random point of the ball instead of the clean input."""
    loss: LossName = "cross-entropy"
    """What is raised: `cross-entropy` (eq. 11), `margin` or `dlr`."""
    early_stop: bool = False
    """Stop once an utterance is fooled, and save its passes; the paper takes all steps."""

    RULES: ClassVar[Rules] = {"step": POSITIVE, "steps": COUNT, "loss": Choice(LOSSES)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm is SignalToNoise and self.step < SMALLEST_SHARE:
            expected = f"at least {SMALLEST_SHARE}, such as .25: a share of the ball, no length"
            raise SettingError("step", self.step, expected)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps: without a random start, x_k is the result of PGD with k steps."""
        if self.early_stop:
            return self._walk(problem)
        return self.ascent(problem, problem.within(self.ball))

    def ascent(self, problem: Problem, ball: Ball) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps inside a ball that is narrower than, or the same as, one's own."""
        return ascend(
            problem.objective(LOSSES[self.loss]),
            problem.x,
            ball,
            step=self.step,
            steps=int(self.steps),
            start=self._start(problem, ball),
            bounds=self.bounds,
        )

    def _walk(self, problem: Problem, **more: Any) -> Iterator[Tensor]:
        """Return the iterates of the walk that may leave utterances behind, or have momentum."""
        return walk(
            problem,
            self.ball,
            loss=LOSSES[self.loss],
            step=self.step,
            steps=int(self.steps),
            start=self._start(problem, problem.within(self.ball)),
            early_stop=self.early_stop,
            **more,
        )

    def _start(self, problem: Problem, ball: Ball) -> Tensor | None:
        """Return a random point of the ball around each input, or None: the clean inputs."""
        if not self.random_start:
            return None
        return problem.x + ball.sample(problem.x, problem.random())


@dataclass(frozen=True, kw_only=True)
class FGSM(BallAttack):
    """Fast gradient sign method (eq. 10): one PGD step as long as the ball is wide."""

    epsilon: float = 0.003
    """Size of the change, in units of the input (.003 is .24 dB on the default scale)."""

    RULES: ClassVar[Rules] = {"epsilon": POSITIVE}

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the one step."""
        ball = problem.within(self.ball)
        yield from ascend(
            problem.objective(cross_entropy),
            problem.x,
            ball,
            step=ball.radius,
            steps=1,
            bounds=self.bounds,
        )

    def sweep(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        epsilons: Sequence[float],
        *,
        leaves: bool | None = None,
        **given: Unpack[Given],
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield each radius, the smallest first, with its result, all from a single gradient.

        The gradient is taken at the clean input, so it is the same for every size, and every
        utterance is moved by all of them. Other arguments and errors as for a call.
        """
        attacks = self.of_sizes(epsilons)
        with self.facing(model, x, y, **given) as problem:
            x = problem.x
            gradient = input_gradient(problem.objective(cross_entropy), x)
        for attack in attacks:
            ball = problem.within(attack.ball)
            moved = into_reach(x, x + ball.radius * ball.steepest(gradient), ball, self.bounds)
            yield attack.ball.radius, attack.held(attack.rounding(problem), moved)


@typed
def class_loss(model: nn.Module, y: Tensor) -> Objective:
    """Return the objective that leads away from classes `y`: cross-entropy per input, (B,).

    The objective raises a SettingError when a class is not one of the model's.

    Raises:
        SettingError: `y` is no tensor of int64.
    """
    if y.dtype != torch.int64:
        raise SettingError("the type of y", y.dtype, "torch.int64, class indices")
    return Problem(model=model, x=y, y=y).objective(cross_entropy)


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class MomentumPGD(PGD):
    """PGD along a running sum of gradients (MI-FGSM, eq. 6 and 7)."""

    decay: float = 1.0
    """What is kept of the earlier gradients, each divided by its mean magnitude; 0 is PGD."""

    RULES: ClassVar[Rules] = {"decay": NOT_NEGATIVE}

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps."""
        return self._walk(problem, decay=self.decay, show=self.show(problem))

    def show(self, problem: Problem) -> Show | None:
        """Return what the model sees instead of an input when a gradient is taken; None: itself."""
        return None


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class DiversePGD(MomentumPGD):
    """PGD whose gradients are taken at randomly shrunk and padded copies of the inputs.

    An input (B, M, F) or (B, C, M, F) shrinks in its last two sides, a waveform (B, T) in time.
    """

    decay: float = 0.0
    """What is kept of the earlier gradients, each divided by its mean magnitude; 0 is DI-FGSM."""
    probability: float = 0.5
    """With which a step sees a shrunk copy of an utterance."""
    smallest: float = 0.9
    """Smallest size of a copy, as a share of the input's; drawn uniformly up to 1."""

    RULES: ClassVar[Rules] = {
        "probability": Rule("a number in (0, 1]", lambda p: 0 < p <= 1),
        "smallest": Rule("a number in (0, 1)", lambda share: 0 < share < 1),
    }

    def show(self, problem: Problem) -> Show:
        """Return the draw of copies; it draws for the whole batch whatever rows are asked for."""
        generator, whole = problem.random(), problem.x
        low, high = self.bounds
        fill = min(max(0.0, low), high)  # the valid value nearest to zero
        if whole.ndim > 4:
            raise ShapeError("x", whole.shape, "(B, T), (B, M, F) or (B, C, M, F) for DiversePGD")

        def shown(z: Tensor, rows: Tensor) -> Tensor:
            shape = torch.Size((len(whole), 4))
            draws = drawn(torch.rand, shape, generator, z.dtype).to(z.device)[rows]
            rate = self.smallest + (1.0 - self.smallest) * draws[:, 1]
            rate = torch.where(draws[:, 0] < self.probability, rate, torch.ones_like(rate))
            return shrunk(z, rate, draws[:, 2:], fill)

        return shown


def shrunk(x: Tensor, rate: Tensor, place: Tensor, fill: float) -> Tensor:
    """Return copies of the shape of `x`, each shrunk, moved and padded by its own draw.

    Interpolation is linear as in torch's ``interpolate(align_corners=False)``; gradients pass.

    Args:
        x: Inputs (B, T), (B, M, F) or (B, C, M, F).
        rate: Share of each side that the copy keeps, (B,), in (0, 1]; sides are rounded.
        place: Where the copy lies in the room that is left, as shares (B, 2) in [0, 1): down, and
            to the right.
        fill: Value around the copy.
    """
    image = x[:, None, None] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x
    height, width = image.shape[2:]
    down, tall = _along(height, rate, place[:, 0])  # (B, H)
    right, wide = _along(width, rate, place[:, 1])  # (B, W)
    shape = (len(x), height, width)
    grid = torch.stack([right[:, None].expand(shape), down[:, :, None].expand(shape)], dim=3)
    copies = nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    inside = (tall[:, :, None] & wide[:, None])[:, None]  # (B, 1, H, W)
    return torch.where(inside, copies, torch.full_like(copies, fill)).reshape(x.shape)


def _along(size: int, rate: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return for one side where each element (B, size) is read, on [-1, 1], and if it is at all."""
    kept = (rate * size).round().clamp(1, size)
    first = (place * (size - kept + 1)).floor()
    element = torch.arange(size, dtype=rate.dtype, device=rate.device)
    offset = element - first[:, None]
    inside = (offset >= 0) & (offset < kept[:, None])
    return (2.0 * offset + 1.0) / kept[:, None] - 1.0, inside


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class RandomNoise(BallAttack):
    """Moves to the surface of the ball in a random direction; asks the model nothing.

    In the L-inf ball each element moves by plus or minus epsilon, in the L2 ball the direction
    is uniform. Both are as large as an attack of that epsilon may be.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels != "true" or self.targeted:
            raise SettingError("labels", self.labels, "true, untargeted: noise knows no class")

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the one draw."""
        ball = problem.within(self.ball)
        direction = ball.steepest(ball.sample(problem.x, problem.random()))
        yield into_reach(problem.x, problem.x + ball.radius * direction, ball, problem.bounds)
