"""Settings of commands that calibrate and certify; torch is loaded when they are made."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from servax.errors import SettingError
from servax.kinds import COUNT, DECIBELS, NOT_NEGATIVE, Rule, Rules, check_list, check_types


@dataclass(frozen=True, kw_only=True)
class CalibrationGrid:
    """The pairs of step and radius that are tried."""

    step_sizes: tuple[float, ...] = (0.003, 0.005, 0.0078, 0.01)
    """Steps of PGD on the [0, 1] scale, as a list."""
    radii: tuple[float, ...] = (0.015, 0.02, 0.03, 0.06)
    """Radii of PGD, likewise (.02 is 1.6 dB)."""
    steps: int = 30
    """Largest k; every k from 1 is scored."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("step_sizes", "radii"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or len(set(values)) < len(values):
                raise SettingError(name, values, "at least one size, and each once")
            if not min(values) > 0:
                raise SettingError(name, values, "sizes above 0")
        for radius in self.radii:
            NOT_NEGATIVE.check("radius", radius)
        from servax.attacks import PGD

        for step, size in self.pairs:
            PGD(step=step, epsilon=size, steps=self.steps)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Step and radius of each pair."""
        return list(itertools.product(self.step_sizes, self.radii))


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
