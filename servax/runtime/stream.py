"""Sound of any form, rate and length through what purifies one short clip at one rate.

Long sound is cut into windows as long as the clips that a purifier was trained on; each is purified
on its own and gives the part of it that lies far enough from its ends. Neighbours fade into each
other; what comes of them stays within full scale (`servax.runtime.limiter`). What is kept at any
moment is one window, however long the sound.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import Rule, Rules, check_number, check_types
from servax.runtime import limiter
from servax.runtime.host import load_extra
from servax.runtime.limiter import Limited, Limiter
from servax.runtime.samples import (
    SHORTEST_SECONDS,
    Samples,
    as_samples,
    check_rate,
    check_samples,
    fewest_samples,
    in_kind,
)

NOTHING: Samples = np.zeros(0, dtype=np.float32)
HOP_SECONDS = 0.5
LOOK_AHEAD_SECONDS = 0.25
TINY = 1e-12


@dataclass(frozen=True)
class Mixture:
    """How much of the change that purifies a clip is let through.

    Less of it is heard less, and protects less (docs/sound.md).
    """

    mix: float = 1.0
    """Share of the change; 1 is all of it, 0 none."""
    limit_db: float | None = None
    """How far the change of a clip (about 6 s) stays below the clip, in dB; default as it is."""

    RULES: ClassVar[Rules] = {
        "mix": Rule("a number from 0 to 1", lambda v: 0 <= v <= 1),
        "limit_db": Rule("a number from 0 to 96 (dB)", lambda v: 0 <= v <= 96),
    }

    def __post_init__(self) -> None:
        check_types(self)

    def share(self, clip_level: Any, change_level: Any) -> Any:
        """Return the factor for a change: a number, or a tensor through which gradients pass.

        Args:
            clip_level: Root of the mean square of the clip.
            change_level: That of the change.
        """
        if self.limit_db is None:
            return self.mix
        most = 10.0 ** (-self.limit_db / 20.0) * clip_level / (change_level + TINY)
        return most if most < self.mix else self.mix


ALL = Mixture()
"""The whole change."""


class SoundCleaner(ABC):
    """Purifies sound of any form, rate and length."""

    @abstractmethod
    def whole_stream(self, sample_rate: int) -> Stream:
        """Return a stream that gives, chunk by chunk, what `whole` gives at once."""

    def samples_of_file(self, file: str | Path | bytes) -> tuple[Samples, int]:
        """Refuse a file: what reads sound is not among the packages that this needs.

        Raises:
            SettingError: Always.
        """
        said = "bytes" if isinstance(file, bytes) else str(file)
        expected = "samples with their sample_rate: servax.Purifier reads files, this not"
        raise SettingError("waveform", said, expected)

    def purify(self, sound: Any, sample_rate: int | None = None) -> Any:
        """Return purified sound of the same form, type, device, length, rate and level.

        Full scale is ±1, or the peak of a sound that goes beyond it; where the change would lift a
        sound above, a limiter lowers it (`servax.runtime.limiter`).

        Time is the last axis. Each channel, and each sound of a batch or list, is purified alone.
        No gradient passes: that is `servax.SoundPurifier`.

        Args:
            sound: Samples (T,), (channels, T) or (B, T), at least .05 s: an array or a tensor,
                floating-point with full scale at 1, or uint8, int16 or int32 with that of its
                type; a list of numbers or of sounds; a path or the bytes of a file, whose samples
                come back (not in `servax.runtime`, which reads none); or a mapping as of
                `datasets.Audio` and the pipelines of transformers (``array`` or ``raw`` with
                ``sampling_rate``; ``path``; ``bytes``), which comes back with an array and no file.
            sample_rate: In Hz, of samples that do not say it; what lies above the front-end's band
                passes unchanged.

        Raises:
            ShapeError: `sound` is not (..., T) or is too short.
            SettingError: `sound` is none, a sample is not finite, or `sample_rate` is missing,
                outside its rule, or not the one that the sound says.
            AudioError: A file cannot be read.
            ServaxError: Another rate than the front-end's needs soxr, which is not installed.
        """
        return in_kind(sound, sample_rate, lambda *s: self.whole(*s)[0], self.samples_of_file)

    def whole(self, original: Samples, sample_rate: int) -> tuple[Samples, Limited]:
        """Return one sound (T,) purified, and what was limited in it."""
        stream = self.whole_stream(sample_rate)
        return stream.feed(original, last=True), stream.limited


class ClipCleaner(SoundCleaner):
    """Purifies sound of any form, rate and length by what purifies one short clip at one rate.

    `servax.Purifier` computes clips with torch, `servax.runtime.Purifier` with onnxruntime. Longer
    sounds than those of its training (about 6 s) are cut into windows that fade into each other.
    """

    mixture: Mixture = ALL

    @property
    @abstractmethod
    def rate(self) -> int:
        """Rate of the sound that is heard, in Hz."""

    @property
    @abstractmethod
    def clip_seconds(self) -> float:
        """How long a clip is at most, as long as in training."""

    @abstractmethod
    def difference(self, clip: Samples) -> Samples:
        """Return what purification adds to a clip (T,) at `rate`, at any level."""

    def mixed(self, mixture: Mixture) -> Self:
        """Return a copy, with the same weights, that lets less of the change through."""
        other = copy.copy(self)
        other.mixture = mixture
        return other

    def whole_stream(self, sample_rate: int) -> SoundStream:
        """Return a stream that gives, chunk by chunk, what `whole` gives at once."""
        windows = self.windows(sample_rate)
        return SoundStream(self.clip_at(sample_rate), windows, sample_rate, live=False)

    def windows(self, sample_rate: int) -> SoundWindows:
        """Return the windows of a whole sound: as long as in training, overlapping by half."""
        longest = int(self.clip_seconds * sample_rate)
        guard, hold = limiter.lengths(sample_rate)
        return SoundWindows(longest, longest // 2, longest // 4 + guard, longest // 8, guard, hold)

    def stream(
        self,
        sample_rate: int,
        *,
        hop_seconds: float = HOP_SECONDS,
        look_ahead_seconds: float = LOOK_AHEAD_SECONDS,
    ) -> SoundStream:
        """Return a stream that takes chunks of sound (`feed`, `finish`) and gives purified ones.

        Args:
            sample_rate: Of the chunks, in Hz.
            hop_seconds: From one pass of the purifier to the next.
            look_ahead_seconds: Heard behind a sample before it is given; with `hop_seconds` it is
                the latency.

        Raises:
            SettingError: A rate or a time is outside its rule.
            ServaxError: soxr is needed and not installed.
        """
        windows = live_windows(self.clip_seconds, sample_rate, hop_seconds, look_ahead_seconds)
        return SoundStream(self.clip_at(sample_rate), windows, sample_rate)

    def clip_at(self, sample_rate: int) -> Callable[[Samples], Samples]:
        """Return what purifies a clip (T,) of any rate; only the difference is resampled.

        Raises:
            ServaxError: soxr is needed and not installed.
        """
        resample: Any = None
        if sample_rate != self.rate:
            what = f"sound of {sample_rate} Hz (the purifier hears {self.rate} Hz)"
            resample = load_extra("soxr", what=what).resample
        return partial(self._clip, sample_rate, resample)

    def _clip(self, sample_rate: int, resample: Any, original: Samples) -> Samples:
        if resample is None:
            difference = self.difference(original)
        else:
            heard = resample(original, sample_rate, self.rate, "HQ")
            difference = resample(self.difference(heard), self.rate, sample_rate, "HQ")
        result = original.copy()
        length = min(len(original), len(difference))
        share = self.mixture.share(_level(original), _level(difference[:length]))
        result[:length] += np.float32(share) * difference[:length]
        # At the level of the original: smoothing takes energy away.
        wanted, given = _level(original), _level(result)
        return result * np.float32(wanted / given) if given > 0 else result


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


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


def live_windows(
    clip_seconds: float,
    sample_rate: int,
    hop_seconds: float = HOP_SECONDS,
    look_ahead_seconds: float = LOOK_AHEAD_SECONDS,
) -> SoundWindows:
    """Return the windows of a live sound, of whole hops; arguments as of `ClipCleaner.stream`.

    Raises:
        SettingError: A rate or a time is outside its rule.
    """
    check_rate(sample_rate)
    check_number("hop_seconds", hop_seconds)
    check_number("look_ahead_seconds", look_ahead_seconds)
    if not SHORTEST_SECONDS <= hop_seconds < math.inf:
        raise SettingError("hop_seconds", hop_seconds, f"at least {SHORTEST_SECONDS} s")
    longest = int(clip_seconds * sample_rate)
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
    return SoundWindows(length, hop, look_ahead, fade, guard, hold)


class Stream(ABC):
    """Takes chunks of sound of any size and gives purified ones, together of the same length.

    Args:
        sample_rate: Of the chunks, in Hz.
        latency: Longest distance in samples from hearing a sample to giving it.
        limits: What keeps the result within full scale.
    """

    def __init__(self, sample_rate: int, latency: int, limits: Limiter) -> None:
        self.sample_rate, self.latency = sample_rate, latency
        self.heard = 0
        """How many samples were taken."""
        self._limiter = limits
        self._finished = False

    @property
    def latency_seconds(self) -> float:
        """Longest time from hearing a sample to giving it, the work itself left out."""
        return self.latency / self.sample_rate

    @property
    def limited(self) -> Limited:
        """How much was lowered in what was given so far, to stay within full scale."""
        return self._limiter.limited

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
        self.heard, self._finished = heard, last
        return self._ready(samples, last=last)

    def finish(self) -> Samples:
        """Return the rest; the stream is over.

        Raises:
            ServaxError: The stream is finished already.
            ShapeError: All chunks together are shorter than .05 s.
        """
        return self.feed(NOTHING, last=True)

    @abstractmethod
    def _ready(self, samples: Samples, *, last: bool) -> Samples:
        """Return what is ready once samples (T,) were heard."""


class SoundStream(Stream):
    """Purifies a window of the last seconds (about 6, as in training) at each hop.

    Of each window all but the end is given. From the first whole window on the result equals that
    of the same windows over the whole sound, whatever the size of the chunks.

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
        super().__init__(sample_rate, windows.latency, Limiter(windows.guard, windows.hold))
        self.windows = windows
        self._clip = clip
        self._next = windows.latency if live else windows.length
        self._kept, self._start = NOTHING, 0
        """The last samples heard, and where in the sound they begin."""
        self._given = 0
        self._last, self._last_start = NOTHING, 0
        """What came out of the last window, and where in the sound it begins."""

    def _ready(self, samples: Samples, *, last: bool) -> Samples:
        """Purify the windows that end in the samples (T,)."""
        heard = self.heard
        self._kept = np.concatenate([self._kept, samples])
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
