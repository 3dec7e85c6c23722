"""PGD on the waveform, through the front-end, with samples that a 16-bit file holds.

Madry et al. 2018 on samples; the masking threshold follows Qin et al. 2019, who lower what exceeds
it by a second loss, where here it is projected away in each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from servax.attacks.base import Attack, Problem
from servax.attacks.logits import LOSSES, LossName
from servax.errors import SettingError, ShapeError
from servax.kinds import COUNT, POSITIVE, Choice, Rule, Rules, check_kind
from servax.perturbation import Ball, Bounds, Linf, SignalToNoise, ascend, into_16_bit
from servax.perturbation.masking import Inaudible, PsychoacousticMask
from servax.perturbation.rounding import (
    Round,
    into_16_bit_within,
    shrunk_into,
    straight_through,
)
from servax.runtime.samples import STEP_16_BIT

ONE_STEP = Rule(
    f"a finite number at least {STEP_16_BIT:g} (1/32768, one step of 16 bits)",
    lambda epsilon: STEP_16_BIT <= epsilon < math.inf,
)
"""What the size of a change must be that is to be rounded to 16 bits."""


@dataclass(frozen=True, kw_only=True)
class WaveformPGD(Attack):
    """Projected gradient descent on waveforms (B, T) in [-1, 1]; give `epsilon` or `snr_db`.

    The model is one of waveforms, such as `servax.models.WaveformClassifier`. Steps gather at full
    precision; what is scored in each step, and returned, is rounded to 16 bits (the gradient goes
    straight through). Those samples lie exactly inside the ball and in [-1, 1 - 2**-15].

    With `masking` the spectrum of the change is brought under the masking threshold of the clean
    sound in each step. That is close but not exact, since frames overlap and since the ball and the
    rounding come after it: `PsychoacousticMask.share_above` says how much is left. Rounding to 16
    bits alone exceeds the threshold in quiet passages.
    """

    bounds: Bounds = (-1.0, 1.0)
    """Lowest and highest sample; 16 bits end at 1 - 2**-15."""
    epsilon: float | None = None
    """Largest change of a sample, as a share of full scale (.002 is -54 dBFS, 66 of 32768)."""
    snr_db: float | None = None
    """Lowest signal-to-noise ratio of each utterance, in dB; silent utterances stay as they are."""
    step: float = 0.25
    """Length of one step, as a share of the budget; shorter steps under a ratio leave some unused,
    since they turn from step to step."""
    steps: int = 40
    """Number of steps."""
    sixteen_bit: bool = True
    """Round to 16 bits inside the loop; False is an attack that no 16-bit file carries."""
    masking: PsychoacousticMask | None = None
    """Bring the change under the masking threshold of the clean sound; none leaves it out."""
    random_start: bool = False
    """Begin at a random point of the ball instead of the clean sound."""
    loss: LossName = "cross-entropy"
    """What is raised: `cross-entropy`, `margin` or `dlr`."""

    RULES: ClassVar[Rules] = {"step": POSITIVE, "steps": COUNT, "loss": Choice(LOSSES)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masking is not None:
            check_kind("masking", self.masking, PsychoacousticMask)
        if (self.epsilon is None) == (self.snr_db is None):
            raise SettingError(
                "(epsilon, snr_db)", (self.epsilon, self.snr_db), "one of the two, the other None"
            )
        if self.snr_db is not None:
            SignalToNoise(self.snr_db)
        if self.epsilon is not None:
            (ONE_STEP if self.sixteen_bit else POSITIVE).check("epsilon", self.epsilon)

    @property
    def ball(self) -> Ball:
        """The ball of `epsilon`; a ratio has none before the utterances are known.

        Raises:
            SettingError: The budget is `snr_db`.
        """
        if self.epsilon is None:
            raise SettingError("epsilon", None, "a number; for snr_db ask ball_around(x)")
        return Linf(self.epsilon)

    def ball_around(self, x: Tensor) -> Ball:
        """Return the changes that utterances `x` (B, T) may undergo."""
        return self.ball if self.snr_db is None else SignalToNoise(self.snr_db).around(x)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps.

        Raises:
            ShapeError: The inputs are not (B, T).
            SettingError: An utterance cannot be rounded to 16 bits inside the ball.
        """
        x = problem.x
        if x.ndim != 2:
            raise ShapeError("x", x.shape, "waveforms (B, T)")
        ball = problem.within(self.ball_around(x))
        rounded = self._rounding(problem, ball)
        rounded(x)  # refused here, before any work
        reach = Inaudible(ball, self.masking.around(x)) if self.masking else ball
        objective = problem.objective(LOSSES[self.loss])
        walk = ascend(
            lambda z: objective(straight_through(z, rounded(z.detach()))),
            x,
            reach,
            step=self.step * ball.radius,
            steps=int(self.steps),
            start=x + reach.sample(x, problem.random()) if self.random_start else None,
            bounds=self.bounds,
        )
        yield from map(rounded, walk)

    def _rounding(self, problem: Problem, ball: Ball) -> Round:
        """Return what makes waveforms in the ball 16-bit ones in the ball."""
        if not self.sixteen_bit:
            return lambda z: z
        x, epsilon, bounds = problem.x, self.epsilon, self.bounds
        if epsilon is not None:
            return lambda z: problem.put_back(into_16_bit_within(x, z, epsilon, bounds))

        def whole(z: Tensor) -> Tensor:
            return problem.put_back(into_16_bit(z, bounds))

        return lambda z: shrunk_into(x, z, ball, whole)
