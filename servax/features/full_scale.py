"""Reads sound for what counts in 16 bits: nothing beyond full scale, and nothing cut in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servax import audio
from servax.errors import AudioError
from servax.runtime.limiter import limited


def read_in_range(
    path: str | Path, *, sample_rate: int, start: float = 0.0, end: float | None = None
) -> NDArray[np.float32]:
    """Return what `servax.audio.read` returns, within full scale.

    Where a decoder (MP3, OGG) or the resampling overshoots, a limiter brings the sound back. A file
    of floats that goes beyond is refused: nobody knows which gain it wants.

    Args:
        path: Any file libsndfile reads.
        sample_rate: Of the result, in Hz.
        start: First moment wanted, in seconds.
        end: Moment after the last one; None or NaN for the end.

    Raises:
        AudioError: As `servax.audio.read`; or the file is of floats beyond full scale.
    """
    samples = audio.read(path, sample_rate=sample_rate, start=start, end=end)
    if np.abs(samples).max() <= 1.0:
        return samples
    with audio.opened(path) as sound:
        of_floats = sound.subtype in audio.FLOATS
    if of_floats:
        peak = audio.inspect(path, start=start, end=end).peak
        if peak > audio.IN_RANGE:
            raise AudioError(path, beyond_full_scale(peak), cause="too_loud")
    return limited(samples, sample_rate)


def beyond_full_scale(peak: float) -> str:
    """Return the end of a sentence about a sound with a peak that 16 bits do not hold."""
    return (
        f"has its loudest sample at {peak:g}, expected at most 1, which is full scale: scale it "
        "down (divide by 32768 where integers of 16 bits were stored as floats)"
    )
