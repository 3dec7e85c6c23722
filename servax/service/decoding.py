"""Sound in the body of a request becomes samples, within limits checked before the work."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from servax.audio import HIGHEST_RATE, LOWEST_RATE
from servax.service.refusals import Refusal

BLOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What one sound may be."""

    body_bytes: int
    """Size of a body."""
    seconds: float
    """How long a sound plays."""
    channels: int
    """Number of channels."""
    decode_seconds: float
    """How long decoding may take."""


@dataclass(frozen=True)
class Decoded:
    """A decoded sound."""

    samples: npt.NDArray[np.float32]
    """(T, channels), full scale ±1."""
    rate: int
    """In hertz."""
    container: str
    """In libsndfile's words, e.g. ``WAV``."""


def decode(body: bytes, limits: Limits) -> Decoded:
    """Return the sound in a body.

    Raises:
        Refusal: It is no sound, a damaged one, or outside a limit.
    """
    if len(body) > limits.body_bytes:
        raise Refusal(413, "too_large", f"The body is over the limit of {limits.body_bytes} bytes.")
    until = time.monotonic() + limits.decode_seconds
    try:
        with soundfile.SoundFile(io.BytesIO(body)) as file:
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                raise Refusal(422, "bad_rate", f"The sound has a rate of {file.samplerate} Hz.")
            if file.channels > limits.channels:
                raise Refusal(422, "too_many_channels", f"The sound has {file.channels} channels.")
            if file.frames > limits.seconds * file.samplerate:
                raise Refusal(
                    422, "too_long", f"The sound is longer than the limit of {limits.seconds} s."
                )
            blocks = []
            while len(block := file.read(int(BLOCK_SECONDS * file.samplerate), "float32", True)):
                blocks.append(block)
                if time.monotonic() > until:
                    raise Refusal(422, "too_slow", "The sound takes too long to decode.")
            if not blocks:
                raise Refusal(422, "no_samples", "The sound holds no samples.")
            return Decoded(np.concatenate(blocks), int(file.samplerate), str(file.format))
    except (soundfile.LibsndfileError, RuntimeError):
        raise Refusal(415, "not_sound", "The body is not sound that can be read.") from None
