"""With how much noise a model of sound is certified, and how often it hears each utterance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servax.errors import SettingError
from servax.kinds import COUNT, DECIBELS, Rule, Rules, check_list, check_types


@dataclass(frozen=True, kw_only=True)
class Certifying:
    """The noise, and how often an utterance is heard with it."""

    noise: tuple[float, ...] = (15.0, 20.0)
    """How far the noise lies below each utterance, in dB; of several each is certified."""
    draws: int = 1_000
    """Noisy copies of each utterance that bound how often its answer comes."""
    draws_to_select: int = 100
    """Noisy copies that choose the answer before."""
    alpha: float = 0.001
    """Probability with which a certificate may be wrong."""
    RULES: ClassVar[Rules] = {
        "draws": COUNT,
        "draws_to_select": COUNT,
        "alpha": Rule("a probability in (0, 1)", lambda v: 0 < v < 1),
    }

    def __post_init__(self) -> None:
        check_types(self)
        check_list("noise", self.noise)
        object.__setattr__(self, "noise", tuple(self.noise))
        if not self.noise or len(set(self.noise)) < len(self.noise):
            raise SettingError("noise", list(self.noise), "at least one ratio in dB, each once")
        for ratio in self.noise:
            DECIBELS.check("noise", ratio)
