"""PGD on the waveform, through the front-end, with samples that a 16-bit file holds.

Madry et al. 2018 on samples; the masking threshold follows Qin et al. 2019, who lower what exceeds
it by a second loss, where here it is projected away in each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from servax.attacks.base import Attack, Problem
from servax.attacks.gradient import PGD
from servax.attacks.logits import LOSSES, LossName
from servax.errors import SettingError, ShapeError
from servax.kinds import COUNT, POSITIVE, Choice, Rules, check_kind
from servax.perturbation import Bounds, Limit, Linf, SignalToNoise
from servax.perturbation.masking import Inaudible, PsychoacousticMask


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
        elif not self.sixteen_bit:
            POSITIVE.check("epsilon", self.epsilon)
        self.pgd  # noqa: B018, refuses what it refuses

    @property
    def pgd(self) -> PGD:
        """The attack itself, but for the masking."""
        size = self.snr_db if self.epsilon is None else self.epsilon
        return PGD(
            norm=Linf if self.snr_db is None else SignalToNoise,
            epsilon=size if size is not None else 0.0,
            step=self.step * (self.epsilon or 1.0),
            steps=self.steps,
            random_start=self.random_start,
            loss=self.loss,
            sixteen_bit=self.sixteen_bit,
            bounds=self.bounds,
            labels=self.labels,
            targeted=self.targeted,
        )

    @property
    def ball(self) -> Limit:
        """The ball of `epsilon`, or of `snr_db`."""
        return self.pgd.ball

    @property
    def in_16_bits(self) -> bool:
        """Whether samples are rounded to 16 bits."""
        return self.sixteen_bit

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps.

        Raises:
            ShapeError: The inputs are not (B, T).
            SettingError: An utterance cannot be rounded to 16 bits inside the ball.
        """
        x = problem.x
        if x.ndim != 2:
            raise ShapeError("x", x.shape, "waveforms (B, T)")
        ball = problem.within(self.ball)
        reach = Inaudible(ball, self.masking.around(x)) if self.masking else ball
        yield from self.pgd.ascent(problem, reach)
