"""Purifies sound as it comes, chunk by chunk, with a stated latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from servax.errors import ShapeError
from servax.purifier.sound import clip_of, longest_clip
from servax.runtime.limiter import Limited
from servax.runtime.rules import (
    HOP_SECONDS,
    LOOK_AHEAD_SECONDS,
    check_rate,
    fewest_samples,
    live_windows,
)
from servax.runtime.samples import Samples
from servax.runtime.windows import Stream

if TYPE_CHECKING:
    from servax.purifier.purifier import Purifier


class SoundStream:
    """Takes chunks of sound and gives purified ones, all together of the same length.

    A window of the last seconds (about 6, as the purifier was trained on) is purified every
    `hop_seconds`; of it all but the last `look_ahead_seconds` is given. At the beginning windows
    are shorter, so the first seconds know less than later ones. From then on the result equals
    that of the same windows over the whole sound, whatever the size of the chunks.

    Args:
        purifier: In evaluation mode, on the CPU.
        sample_rate: Of the chunks, in Hz.
        hop_seconds: From one window to the next; each costs one pass of the purifier.
        look_ahead_seconds: What a sample's window hears behind it, at least.

    Raises:
        SettingError: A rate or a time is outside its rule.

    Example:
        >>> stream = purifier.stream(16_000)  # doctest: +SKIP
        >>> for chunk in microphone:  # doctest: +SKIP
        ...     play(stream.feed(chunk))
        >>> play(stream.finish())  # doctest: +SKIP
    """

    def __init__(
        self,
        purifier: Purifier,
        sample_rate: int,
        *,
        hop_seconds: float = HOP_SECONDS,
        look_ahead_seconds: float = LOOK_AHEAD_SECONDS,
    ) -> None:
        check_rate(sample_rate)
        longest = longest_clip(purifier, sample_rate)
        self.windows = live_windows(longest, sample_rate, hop_seconds, look_ahead_seconds)
        self.sample_rate = sample_rate
        self._stream = Stream(clip_of(purifier, sample_rate), self.windows)

    @property
    def latency_seconds(self) -> float:
        """Longest time from hearing a sample to giving it, the work itself left out."""
        return self.windows.latency / self.sample_rate

    @property
    def limited(self) -> Limited:
        """How much was lowered in what was given so far, to stay within full scale."""
        return self._stream.limited

    def feed(self, chunk: NDArray[np.floating]) -> Samples:
        """Take a chunk (T,) of any length and return the samples that are ready, perhaps none.

        Raises:
            ServaxError: The stream is finished.
            ShapeError: `chunk` is not (T,).
            SettingError: A sample is not finite.
        """
        return self._stream.feed(chunk)

    def finish(self) -> Samples:
        """Return the rest; the stream is over.

        Raises:
            ServaxError: The stream is finished already.
            ShapeError: All chunks together are shorter than .05 s.
        """
        heard, least = self._stream.heard, fewest_samples(self.sample_rate)
        if 0 < heard < least:
            raise ShapeError("all chunks together", (heard,), f"(T,) with T >= {least}")
        return self._stream.finish()
