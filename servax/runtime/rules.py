"""How sound is purified, whatever computes it: limits, defaults, windows, level.

`servax.purifier.sound` does it with torch, `servax.runtime.purifier` with NumPy; both by these.
"""

from __future__ import annotations

import math

import numpy as np

from servax.errors import SettingError
from servax.kinds import check_number
from servax.runtime import limiter
from servax.runtime.samples import Samples
from servax.runtime.windows import Windows

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Rates of sound in Hz, as `servax.audio` reads it."""
SHORTEST_SECONDS = 0.05
CORRECTIONS = 2
"""More change little (`research/purified_sound.py`)."""
HOP_SECONDS = 0.5
LOOK_AHEAD_SECONDS = 0.25
LARGEST_GAIN_DB = 20.0
"""A bin is raised or lowered by at most this much: more is reconstruction error, not cleaning."""


def check_rate(sample_rate: int) -> None:
    """Refuse a rate that no sound has.

    Raises:
        SettingError: `sample_rate` is outside its rule.
    """
    check_number("sample_rate", sample_rate)
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE or sample_rate % 1:
        raise SettingError(
            "sample_rate", sample_rate, f"a rate in [{LOWEST_RATE}, {HIGHEST_RATE}] Hz"
        )


def fewest_samples(sample_rate: int) -> int:
    """Return how many samples at a rate a sound has at least."""
    return int(np.ceil(SHORTEST_SECONDS * sample_rate))


def whole_windows(longest: int, sample_rate: int) -> Windows:
    """Return the windows of a sound that is there as a whole.

    Args:
        longest: How many samples a purifier hears at once: as many as it was trained on.
        sample_rate: In Hz.
    """
    guard, hold = limiter.lengths(sample_rate)
    return Windows(longest, longest // 2, longest // 4 + guard, longest // 8, guard, hold)


def live_windows(
    longest: int, sample_rate: int, hop_seconds: float, look_ahead_seconds: float
) -> Windows:
    """Return the windows of a stream that gives after `hop_seconds` + `look_ahead_seconds`.

    Args:
        longest: How many samples a purifier hears at once.
        sample_rate: In Hz.
        hop_seconds: From one window to the next.
        look_ahead_seconds: Heard behind a sample before it is given.

    Raises:
        SettingError: A rate or a time is outside its rule.
    """
    check_rate(sample_rate)
    check_number("hop_seconds", hop_seconds)
    check_number("look_ahead_seconds", look_ahead_seconds)
    if not SHORTEST_SECONDS <= hop_seconds < math.inf:
        raise SettingError("hop_seconds", hop_seconds, f"at least {SHORTEST_SECONDS} s")
    most = longest / sample_rate
    if not 0 <= look_ahead_seconds <= most - hop_seconds:
        raise SettingError(
            "look_ahead_seconds", look_ahead_seconds, f"0 to {most:.2f} s together with the hop"
        )
    hop, look_ahead = (round(s * sample_rate) for s in (hop_seconds, look_ahead_seconds))
    # A whole number of hops: windows of a sound that is heard at once end at the same places.
    length = look_ahead + hop * ((longest - look_ahead) // hop)
    guard, hold = limiter.lengths(sample_rate)
    guard = min(guard, look_ahead)
    fade = min(hop // 2, look_ahead // 2, look_ahead - guard)
    return Windows(length, hop, look_ahead, fade, guard, hold)


def at_level_of(sound: Samples, original: Samples) -> Samples:
    """Return (T,) `sound` at the RMS level of `original`: smoothing takes energy away."""
    wanted, given = (
        float(np.sqrt(np.mean(np.square(s, dtype=np.float64)))) for s in (original, sound)
    )
    return sound * np.float32(wanted / given) if given > 0 else sound
