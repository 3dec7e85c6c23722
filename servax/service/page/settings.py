"""What is asked of the page, and how much it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from servax.errors import SettingError

AttackName = Literal["none", "fgsm", "pgd"]
Knowledge = Literal["oblivious", "adaptive"]
LOWEST_SNR_DB, HIGHEST_SNR_DB = 10.0, 60.0
STEPS = {"fgsm": 1, "pgd": 15}
"""Ascent steps of each attack; FGSM is one step as long as its budget."""


@dataclass(frozen=True)
class ShowSettings:
    """Which attack is tried."""

    attack: AttackName = "pgd"
    """`none`, `fgsm` or `pgd` (15 steps), on the samples of the sound, away from the recogniser's
    own answer."""
    snr_db: float = 30.0
    """Strength: lowest signal-to-noise ratio of the attacked sound, in dB; lower is stronger."""
    knowledge: Knowledge = "oblivious"
    """Whose sound is drawn and heard: the attacker's who knows the recogniser only, or that of one
    who knows the purifier too. Both are always tried."""

    def __post_init__(self) -> None:
        for name, kind in (("attack", AttackName), ("knowledge", Knowledge)):
            if getattr(self, name) not in get_args(kind):
                raise SettingError.choice(name, getattr(self, name), get_args(kind))
        given = self.snr_db
        number = isinstance(given, int | float) and math.isfinite(given)
        if not (number and LOWEST_SNR_DB <= given <= HIGHEST_SNR_DB):
            raise SettingError("snr_db", given, f"{LOWEST_SNR_DB:g} to {HIGHEST_SNR_DB:g} dB")


@dataclass(frozen=True)
class PageLimits:
    """How much the page takes from one clip, and from all who use it together."""

    seconds: float = 8.0
    """Longest clip, in seconds; an attack takes many times what purifying takes."""
    upload_bytes: int = 8_000_000
    """Largest file that is uploaded."""
    held_bytes: int = 256_000_000
    """Most that all clips on the disk take together; beyond it uploads wait."""
    kept_seconds: int = 600
    """How long a clip stays on the disk."""
    at_once: int = 1
    """Clips that are worked on at the same time."""
    waiting: int = 8
    """Clips that may wait; more are refused."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.seconds < math.inf:
            raise SettingError("seconds", self.seconds, "a finite number of at least .5")
        for name in ("upload_bytes", "held_bytes", "kept_seconds", "at_once", "waiting"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), "a whole number of at least 1")
