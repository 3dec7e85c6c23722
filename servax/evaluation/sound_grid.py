"""The attacks on a model of sound: budgets in dB, samples of 16 bits, from noise to white box.

A budget is the lowest signal-to-noise ratio of each utterance to what is added to it. The attackers
are those of the suites on log-Mel. Inputs must be 16-bit samples, as those of `gather` are: the
rounding of others alone takes what a high ratio allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from servax.attacks import (
    APGD,
    NES,
    PGD,
    Attack,
    DiversePGD,
    RandomNoise,
    Restarts,
    Square,
    TargetedAPGD,
    WaveformPGD,
)
from servax.errors import SettingError
from servax.evaluation.threats import Knowledge, Threat
from servax.kinds import COUNT, NOT_NEGATIVE, Rule, Rules, check_list, check_types
from servax.perturbation import PsychoacousticMask, SignalToNoise

RATIO = Rule(
    "a ratio above 0 dB, the level of the utterance, and at most 90: 16 bits hold no more",
    lambda decibels: 0 < decibels <= 90,
)
STEP = 0.25
"""Length of a step, as a share of the ball: after four the rim is reached."""


@dataclass(frozen=True)
class SoundGrid:
    """Strengths of the attacks on sound; what is 0 is left out."""

    snr_db: tuple[float, ...] = (60.0, 50.0, 40.0, 30.0, 20.0)
    """Lowest signal-to-noise ratios of an attacked utterance, in dB; the quietest change first."""
    steps: int = 10
    """Steps of PGD and APGD in each ball."""
    targeted: int = 0
    """Steps of APGD towards each other class."""
    restarts: int = 0
    """Random starts of PGD, each of as many steps."""
    masked: int = 0
    """Steps of PGD under the psychoacoustic masking threshold, at the lowest ratio."""
    square: int = 100
    """Queries of Square in each ball."""
    estimated: int = 0
    """Queries of NES in each ball."""
    sample_rate: int = 16_000
    """Of the model, in Hz; the masking threshold depends on it."""
    EFFORTS: ClassVar = ("steps", "targeted", "restarts", "masked", "square", "estimated")
    """The settings that cost time."""
    RULES: ClassVar[Rules] = {
        **dict.fromkeys(EFFORTS, NOT_NEGATIVE),
        "steps": COUNT,
        "square": COUNT,
    }

    def __post_init__(self) -> None:
        check_list("snr_db", self.snr_db)
        object.__setattr__(self, "snr_db", tuple(sorted(map(float, self.snr_db), reverse=True)))
        check_types(self)
        if not self.snr_db or len(set(self.snr_db)) < len(self.snr_db):
            raise SettingError("snr_db", self.snr_db, "at least one ratio, and each once")
        for decibels in self.snr_db:
            RATIO.check("snr_db", decibels)
        PsychoacousticMask(sample_rate=self.sample_rate)

    def told(self) -> dict[str, Any]:
        """Return what provenance says of the grid."""
        return asdict(self)

    def noise(self) -> Threat:
        """Return noise as loud as the attacks, the control: it asks the model nothing."""
        return self._threat("noise", "black_box", RandomNoise(**self._ball()), queries=1)

    def oblivious(self) -> tuple[Threat, ...]:
        """Return PGD on the bare model, to its end in each ball, for every defence."""
        return (self._pgd("oblivious", early_stop=False),)

    def transfer(self, name: str) -> tuple[Threat, ...]:
        """Return the attacks on a surrogate called `name`, for every system."""
        diverse = DiversePGD(**self._ball(), step=STEP, steps=self.steps, decay=1.0)
        told: dict[str, Any] = {"gradients": self.steps, "surrogate": name}
        return tuple(
            self._threat(f"{attack}-{name}", "transfer", made, **told)
            for attack, made in (("pgd", self._walk(early_stop=False)), ("mi-di", diverse))
        )

    def black_box(self) -> tuple[Threat, ...]:
        """Return the attacks that ask the system only."""
        return tuple(self._black_box())

    def bpda(self) -> tuple[Threat, ...]:
        """Return PGD with the identity in place of a defence's gradient."""
        return (self._pgd("bpda"),)

    def adaptive(self) -> tuple[Threat, ...]:
        """Return the attacks through the whole system."""
        return tuple(self._adaptive())

    def _black_box(self) -> Iterator[Threat]:
        square = Square(**self._ball(), queries=self.square)
        yield self._threat("square", "black_box", square, queries=self.square)
        if self.estimated:
            nes = NES(**self._ball(), step=STEP, queries=self.estimated)
            yield self._threat("nes", "black_box", nes, queries=self.estimated)

    def _adaptive(self) -> Iterator[Threat]:
        yield self._pgd("adaptive")
        apgd = APGD(**self._ball(), steps=self.steps)
        yield self._threat("apgd-ce", "adaptive", apgd, gradients=self.steps + 1)
        if self.targeted:
            attack = TargetedAPGD(**self._ball(), steps=self.targeted)
            gradients = 3 * (self.targeted + 1)
            yield self._threat("apgd-targeted", "adaptive", attack, gradients=gradients)
        if self.restarts:
            step = max(2.5 / self.steps, 0.05)
            start = replace(self._walk(early_stop=True), step=step, random_start=True)
            restarts, gradients = Restarts(start, self.restarts), self.steps * self.restarts
            yield self._threat("pgd-restarts", "adaptive", restarts, gradients=gradients)
        if self.masked:
            mask = PsychoacousticMask(sample_rate=self.sample_rate)
            hidden = WaveformPGD(snr_db=self.snr_db[-1], steps=self.masked, masking=mask)
            yield Threat("pgd-masked", "adaptive", hidden, gradients=self.masked)

    def _pgd(self, knowledge: Knowledge, *, early_stop: bool = True) -> Threat:
        attack = self._walk(early_stop=early_stop)
        return self._threat("pgd", knowledge, attack, gradients=self.steps)

    def _walk(self, *, early_stop: bool) -> PGD:
        return PGD(**self._ball(), step=STEP, steps=self.steps, early_stop=early_stop)

    def _ball(self) -> dict[str, Any]:
        """Return what the attacks share, at the lowest ratio."""
        return {
            "norm": SignalToNoise,
            "epsilon": self.snr_db[-1],
            "bounds": (-1.0, 1.0),
            "sixteen_bit": True,
        }

    def _threat(
        self,
        name: str,
        knowledge: Knowledge,
        attack: Attack,
        *,
        gradients: int = 0,
        queries: int = 0,
        surrogate: str = "",
    ) -> Threat:
        """Return a threat at all ratios; it takes so many gradients and queries at each."""
        count = len(self.snr_db)
        return Threat(
            name,
            knowledge,
            attack,
            gradients=gradients * count,
            queries=queries * count,
            sweep=self.snr_db,
            surrogate=surrogate,
        )
