"""Cuts sound of any length into windows, purifies each and joins what comes out.

Each window is purified on its own, as the clips that a purifier was trained on, and gives the part
of it that lies far enough from its ends. Neighbours fade into each other; what comes of them stays
within full scale (`servax.runtime.limiter`). What is kept at any moment is one window, however long
the sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import check_number, check_types
from servax.runtime import limiter
from servax.runtime.forms import (
    SHORTEST_SECONDS,
    Samples,
    as_samples,
    check_rate,
    check_samples,
    fewest_samples,
)
from servax.runtime.limiter import Limited, Limiter

NOTHING: Samples = np.zeros(0, dtype=np.float32)
HOP_SECONDS = 0.5
LOOK_AHEAD_SECONDS = 0.25


@dataclass(frozen=True)
class SoundWindows:
    """How a long sound is cut, in samples."""

    length: int
    """Of a window."""
    hop: int
    """From the end of a window to that of the next."""
    look_ahead: int
    """How far a sample is given behind what was heard, at least. The next window knows the end of
    a window better; of it the limiter hears `guard`."""
    fade: int
    """How long two windows fade into each other."""
    guard: int = 0
    """Look-ahead of the limiter, a part of `look_ahead`."""
    hold: int = 0
    """How long the gain of the limiter stays behind a peak."""

    def __post_init__(self) -> None:
        check_types(self)
        least_of = {"length": 1, "hop": 1, "look_ahead": 0, "fade": 0, "guard": 0, "hold": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise SettingError(name, getattr(self, name), f"at least {least} samples")
        if self.hop + self.look_ahead > self.length:
            raise SettingError(
                "hop + look_ahead", self.hop + self.look_ahead, f"at most {self.length} samples"
            )
        if self.fade > min(self.hop, self.unsure):
            raise SettingError("fade", self.fade, "at most hop, and look_ahead without guard")

    @classmethod
    def of_whole(cls, longest: int, sample_rate: int) -> SoundWindows:
        """Return the windows of a sound that is there as a whole.

        Args:
            longest: How many samples a purifier hears at once: as many as it was trained on.
            sample_rate: In Hz.
        """
        guard, hold = limiter.lengths(sample_rate)
        return cls(longest, longest // 2, longest // 4 + guard, longest // 8, guard, hold)

    @classmethod
    def of_stream(
        cls, longest: int, sample_rate: int, hop_seconds: float, look_ahead_seconds: float
    ) -> SoundWindows:
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
        return cls(length, hop, look_ahead, fade, guard, hold)

    @property
    def latency(self) -> int:
        """Largest distance in samples from hearing a sample to giving it, in a stream."""
        return self.hop + self.look_ahead

    @property
    def unsure(self) -> int:
        """How many samples at the end of a window are left to the next one."""
        return self.look_ahead - self.guard

    @property
    def ramp(self) -> Samples:
        """Weights (fade,) of the later of two windows where they overlap."""
        return (np.arange(1, self.fade + 1) / (self.fade + 1)).astype(np.float32)

    def weighted(self, total: int) -> Iterator[tuple[int, int, Samples]]:
        """Yield start, stop and weights (stop - start,) of the windows of a sound.

        Weights of all windows add up to 1 at each sample; a sound no longer than a window is one.
        """
        given, stop = 0, min(self.length, total)
        while True:
            start = max(0, stop - self.length)
            weights = np.zeros(stop - start, dtype=np.float32)
            weights[given - start :] = 1.0
            if given:
                weights[given - start : given - start + self.fade] = self.ramp
            if stop == total:
                yield start, stop, weights
                return
            given = stop - self.unsure
            weights[given - start :] = 0.0
            weights[given - start : given - start + self.fade] = 1.0 - self.ramp
            yield start, stop, weights
            stop = min(stop + self.hop, total)


class SoundStream:
    """Takes chunks of sound of any size and gives purified ones, together of the same length.

    A window of the last seconds (about 6, as the purifier was trained on) is purified at each hop;
    of it all but the end is given. From the first whole window on the result equals that of the
    same windows over the whole sound, whatever the size of the chunks.

    Args:
        clip: Maps one window (T,) to its purified samples (T,).
        windows: How the sound is cut.
        sample_rate: Of the chunks, in Hz.
        live: Whether the first windows are short, so that the latency holds from the beginning;
            else nothing is given before a whole window was heard, which knows more.

    Example:
        >>> stream = purifier.stream(16_000)  # doctest: +SKIP
        >>> for chunk in microphone:  # doctest: +SKIP
        ...     play(stream.feed(chunk))
        >>> play(stream.finish())  # doctest: +SKIP
    """

    def __init__(
        self,
        clip: Callable[[Samples], Samples],
        windows: SoundWindows,
        sample_rate: int,
        *,
        live: bool = True,
    ) -> None:
        self.windows, self.sample_rate = windows, sample_rate
        self._clip = clip
        self._next = windows.latency if live else windows.length
        self._kept, self._start = NOTHING, 0
        """The last samples heard, and where in the sound they begin."""
        self._given = 0
        self._last, self._last_start = NOTHING, 0
        """What came out of the last window, and where in the sound it begins."""
        self._limiter = Limiter(windows.guard, windows.hold)
        self._finished = False

    @property
    def latency_seconds(self) -> float:
        """Longest time from hearing a sample to giving it, the work itself left out."""
        return self.windows.latency / self.sample_rate

    @property
    def limited(self) -> Limited:
        """How much was lowered in what was given so far, to stay within full scale."""
        return self._limiter.limited

    @property
    def heard(self) -> int:
        """How many samples were taken."""
        return self._start + len(self._kept)

    def feed(self, chunk: NDArray[np.floating], *, last: bool = False) -> Samples:
        """Take a chunk (T,) of any length and return the samples that are ready, perhaps none.

        Args:
            chunk: What comes next, perhaps nothing.
            last: The sound ends with it: all the rest is returned, and the stream is over.

        Raises:
            ServaxError: The stream is finished.
            ShapeError: `chunk` is not (T,), or all chunks together are shorter than .05 s.
            SettingError: A sample is not finite, or beyond `LOUDEST`.
        """
        if self._finished:
            raise ServaxError("this stream is finished: begin another for another sound.")
        samples = as_samples("chunk", chunk)
        if samples.ndim != 1:
            raise ShapeError("chunk", samples.shape, "(T,) mono samples")
        check_samples("chunk", samples)
        heard, least = self.heard + len(samples), fewest_samples(self.sample_rate)
        if last and 0 < heard < least:
            raise ShapeError("all chunks together", (heard,), f"(T,) with T >= {least}")
        self._kept = np.concatenate([self._kept, samples])
        self._finished = last
        hop, unsure = self.windows.hop, self.windows.unsure
        ends = [(stop, stop - unsure) for stop in range(self._next, heard + 1, hop)]
        self._next += hop * len(ends)
        if last and heard > (ends[-1][0] if ends else self._last_start + len(self._last)):
            ends.append((heard, heard))
        ready = [NOTHING]
        for stop, until in ends:
            start = max(0, stop - self.windows.length)
            purified = self._clip(self._kept[start - self._start : stop - self._start])
            ready.append(self._joined(purified, start, until))
        if last:
            rest = self._last[self._given - self._last_start :]
            ready += [self._within(rest, self._last_start), self._limiter.finish()]
        first = max(self._start, heard - self.windows.length)
        self._kept, self._start = self._kept[first - self._start :].copy(), first
        return np.concatenate(ready)

    def finish(self) -> Samples:
        """Return the rest; the stream is over.

        Raises:
            ServaxError: The stream is finished already.
            ShapeError: All chunks together are shorter than .05 s.
        """
        return self.feed(NOTHING, last=True)

    def _joined(self, purified: Samples, start: int, until: int) -> Samples:
        """Fade into a window that begins at `start`; return what is ready of it, up to `until`."""
        ready = purified[self._given - start : until - start].copy()
        if self._given:
            first = self._given - self._last_start
            before, ramp = self._last[first : first + self.windows.fade], self.windows.ramp
            ready[: len(ramp)] = before * (1.0 - ramp) + ready[: len(ramp)] * ramp
        self._last, self._last_start = purified, start
        self._given = until
        return self._within(ready, start)

    def _within(self, ready: Samples, start: int) -> Samples:
        """Return what the limiter gives for samples of a window that begins at `start`."""
        heard = self._kept[start - self._start : start - self._start + len(self._last)]
        # Beyond full scale is what was so before: a sound of floats keeps its own peak.
        return self._limiter.feed(ready, max(1.0, float(np.abs(heard).max(initial=0.0))))
