"""Sounds that a page plays: 16-bit WAV in memory, grouped by recording."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import soundfile

__all__ = ["Player", "PlayerGroup", "wav"]

_FULL_SCALE = 32768
"""Steps of 16-bit samples from 0 to 1."""


@dataclass(frozen=True)
class Player:
    """One sound and what it is taken for."""

    kind: str
    """What was done to it."""
    system: str
    """Who was asked."""
    prediction: str
    """The answer."""
    right: bool
    """Whether that is the true class."""
    wav: bytes = field(repr=False)
    """The sound as a WAV file."""


@dataclass(frozen=True)
class PlayerGroup:
    """The sounds of one recording."""

    title: str
    """Name of the recording and its true class."""
    players: tuple[Player, ...]
    """In the order in which they are shown."""


def wav(waveform: npt.NDArray[np.floating], sample_rate: int) -> bytes:
    """Return samples (T,), full scale ±1, as a 16-bit WAV file; what lies beyond is clipped.

    Read back, each sample is the nearest that 16 bit have.
    """
    steps = np.rint(np.asarray(waveform, dtype=np.float64) * _FULL_SCALE)
    samples = np.clip(steps, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
