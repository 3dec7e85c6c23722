"""Sound in, sound out: the steps around a purifier that are the same whatever computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from servax.runtime.extras import load_extra
from servax.runtime.forms import Samples, check_rate, in_kind
from servax.runtime.limiter import Limited
from servax.runtime.windows import (
    HOP_SECONDS,
    LOOK_AHEAD_SECONDS,
    SoundStream,
    SoundWindows,
)


class SoundCleaner(ABC):
    """Purifies sound of any form, rate and length by what purifies one short clip at one rate.

    `servax.Purifier` computes clips with torch, `servax.runtime.Purifier` with onnxruntime.
    """

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

    @abstractmethod
    def samples_of_file(self, file: str | Path | bytes) -> tuple[Samples, int]:
        """Return the samples (channels, T) of a file, or of the bytes of one, and its rate."""

    def purify(self, sound: Any, sample_rate: int | None = None) -> Any:
        """Return purified sound of the same form, type, device, length, rate and level.

        Full scale is ±1, or the peak of a sound that goes beyond it; where the change would lift a
        sound above, a limiter lowers it (`servax.runtime.limiter`).

        Time is the last axis. Each channel, and each sound of a batch or list, is purified alone;
        longer ones than the purifier was trained on (about 6 s) in windows that fade into each
        other. No gradient passes: that is `servax.SoundPurifier`.

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
        return np.concatenate([stream.feed(original), stream.finish()]), stream.limited

    def whole_stream(self, sample_rate: int) -> SoundStream:
        """Return a stream that gives, chunk by chunk, what `whole` gives at once."""
        windows = self.windows(sample_rate)
        return SoundStream(self._clip_at(sample_rate), windows, sample_rate, live=False)

    def windows(self, sample_rate: int) -> SoundWindows:
        """Return the windows of a whole sound: as long as in training, overlapping by half."""
        return SoundWindows.of_whole(int(self.clip_seconds * sample_rate), sample_rate)

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
        check_rate(sample_rate)
        longest = int(self.clip_seconds * sample_rate)
        windows = SoundWindows.of_stream(longest, sample_rate, hop_seconds, look_ahead_seconds)
        return SoundStream(self._clip_at(sample_rate), windows, sample_rate)

    def _clip_at(self, sample_rate: int) -> Callable[[Samples], Samples]:
        """Return what purifies a clip (T,) of another rate; only the difference is resampled."""
        resample: Any = None
        if sample_rate != self.rate:
            what = f"sound of {sample_rate} Hz (the purifier hears {self.rate} Hz)"
            resample = load_extra("soxr", what=what).resample

        def clip(original: Samples) -> Samples:
            sound = original
            if resample is not None:
                sound = resample(original, sample_rate, self.rate, "HQ")
            difference = self.difference(sound)
            if resample is not None:
                difference = resample(difference, self.rate, sample_rate, "HQ")
            result = original.copy()
            length = min(len(original), len(difference))
            result[:length] += difference[:length]
            # At the level of the original: smoothing takes energy away.
            wanted, given = (
                float(np.sqrt(np.mean(np.square(s, dtype=np.float64)))) for s in (original, result)
            )
            return result * np.float32(wanted / given) if given > 0 else result

        return clip
