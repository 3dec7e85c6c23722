"""Keeps sound within full scale: a limiter that looks ahead, with NumPy alone.

What a purifier adds can lift a full sound above full scale, where a file of 16 bits would cut it.
Here the gain g falls before a peak and rises behind it instead. With a = abs(y) / ceiling, the
ceiling 1 (or the peak of the original, where that lies beyond), and L, H the look-ahead and hold:

    r(n) = 1 where a <= 1, else max(.989, 1.5 - a / 2) / a
    m(n) = min of r(n - H) ... r(n + L)
    g(n) = mean of m(n - L) ... m(n), by the weights of a triangle

Each of these m covers r(n), so g(n) <= r(n): no sample leaves the range. Where nothing is beyond
it, g is 1 and every bit stays. Sums are of whole numbers, so the size of the chunks changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servax.runtime.samples import STEP_16_BIT, Samples

Gains = NDArray[np.float64]

LOOK_AHEAD_SECONDS = 0.02
HOLD_SECONDS = 0.05
"""Longer than a period of the voice: the gain rests within a vowel."""
TARGET = 10.0 ** (-0.1 / 20.0)
"""Where a peak comes to lie that was well beyond full scale: a decoder may overshoot a little."""
UNIT = 1 << 30
"""Gains are summed as whole numbers of this part of 1."""


@dataclass(frozen=True)
class Limited:
    """How much a limiter changed."""

    samples: int = 0
    """How many were lowered."""
    decibels: float = 0.0
    """By how much at most."""

    @classmethod
    def together(cls, parts: Iterable[Limited]) -> Limited:
        """Return what was changed in several channels."""
        told = list(parts)
        return cls(sum(p.samples for p in told), max((p.decibels for p in told), default=0.0))


class Limiter:
    """Takes sound in parts of any size and gives it `look_ahead` samples later, within range.

    Args:
        look_ahead: How many samples before a peak the gain begins to fall, and behind the hold
            how many it takes to rise.
        hold: How many samples behind a peak the gain stays.
    """

    def __init__(self, look_ahead: int, hold: int) -> None:
        self._look_ahead, self._hold = look_ahead, hold
        self._waiting: Samples = np.zeros(0, dtype=np.float32)
        self._ceilings = np.zeros(0, dtype=np.float32)
        self._needed: Gains = np.ones(hold + look_ahead)
        """r of all waiting samples, and of as many before them as their gains depend on."""
        self._lowered, self._least = 0, 1.0

    @property
    def limited(self) -> Limited:
        """How much was changed in what was given so far."""
        return Limited(self._lowered, 20.0 * math.log10(1.0 / self._least))

    def feed(self, samples: Samples, ceiling: float | Samples) -> Samples:
        """Take samples (T,) that may reach a ceiling, one or (T,), and return the ready ones."""
        self._waiting = np.concatenate([self._waiting, samples])
        self._ceilings = np.concatenate(
            [self._ceilings, np.full(len(samples), ceiling, dtype=np.float32)]
        )
        self._needed = np.concatenate([self._needed, needed(samples, ceiling)])
        return self._give(len(self._waiting) - self._look_ahead)

    def finish(self) -> Samples:
        """Return the rest."""
        self._needed = np.concatenate([self._needed, np.ones(self._look_ahead)])
        return self._give(len(self._waiting))

    def _give(self, count: int) -> Samples:
        if count <= 0:
            return self._waiting[:0]
        # As long as count + hold + 2 look_ahead; its gains are `count`.
        used = self._needed[: count + self._hold + 2 * self._look_ahead]
        ready, ceilings = self._waiting[:count], self._ceilings[:count]
        if used.min() < 1.0:
            gains = smoothed(used, self._look_ahead, self._hold)
            ready = (ready * gains).astype(np.float32)
            self._lowered += int(np.count_nonzero(gains < 1.0))
            self._least = min(self._least, float(gains.min()))
        self._waiting, self._ceilings = self._waiting[count:], self._ceilings[count:]
        self._needed = self._needed[count:]
        return np.clip(ready, -ceilings, ceilings)


def limited(samples: Samples, sample_rate: int) -> Samples:
    """Return a whole sound (T,) within full scale.

    Args:
        samples: Of a sound that a resampler or a decoder lifted beyond it.
        sample_rate: In Hz.
    """
    limiter = Limiter(*lengths(sample_rate))
    return np.concatenate([limiter.feed(samples, 1.0), limiter.finish()])


def lengths(sample_rate: int) -> tuple[int, int]:
    """Return look-ahead and hold at a rate, in samples."""
    return round(LOOK_AHEAD_SECONDS * sample_rate), round(HOLD_SECONDS * sample_rate)


def needed(samples: Samples, ceiling: float | Samples) -> Gains:
    """Return the gain r (T,) that each sample needs by itself; rounding beyond 1 is cut."""
    beyond = np.maximum(np.abs(samples, dtype=np.float64) / ceiling - STEP_16_BIT, 1.0)
    gains: Gains = np.maximum(TARGET, 1.5 - beyond / 2.0) / beyond
    return gains


def smoothed(needs: Gains, look_ahead: int, hold: int) -> Gains:
    """Return the gains g (T,) of needs r (T + hold + 2 look_ahead,)."""
    least = _sliding_minimum(needs, look_ahead + hold + 1)  # (T + look_ahead,)
    whole = np.floor(least * UNIT).astype(np.int64)
    first, second = triangle(look_ahead)
    sums = _sliding_sum(_sliding_sum(whole, first), second)  # (T,)
    gains: Gains = sums / float(UNIT * first * second)
    return gains


def triangle(look_ahead: int) -> tuple[int, int]:
    """Return the lengths of the two means that make one of a triangle of `look_ahead` + 1."""
    return look_ahead // 2 + 1, look_ahead - look_ahead // 2 + 1


def _sliding_minimum(values: Gains, width: int) -> Gains:
    done = 1
    while 2 * done <= width:
        values = np.minimum(values[:-done], values[done:])
        done *= 2
    rest = width - done
    return np.minimum(values[: len(values) - rest], values[rest:])


def _sliding_sum(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return sums of `width` neighbours; what overflows on the way does so twice, and is gone."""
    total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values)])
    sums: NDArray[np.int64] = total[width:] - total[:-width]
    return sums
