"""From a file or a synthesiser to what the page shows; runs where the models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soxr

from servax import audio
from servax.corpora.synthetic import PROSODY, SENTENCES, speak
from servax.errors import AudioError
from servax.features.full_scale import read_in_range
from servax.service.models import Models
from servax.service.page.settings import PageLimits
from servax.service.page.showing import Listened, Samples, listen
from servax.service.refusals import Refusal

MOST_CHANNELS = 2
EXAMPLE_RATE = 16_000
EXAMPLE_VOICE = "m1"
EXAMPLE = ("sad", 3)
"""Label and sentence of the example: one where the defence works. Most are not so kind."""


def listen_to_file(models: Models, path: Path, limits: PageLimits) -> Listened:
    """Return what the recogniser makes of the sound in a file that somebody sent.

    Args:
        models: The purifier and the recogniser.
        path: The file.
        limits: What is refused before it is decoded.

    Raises:
        Refusal: The file is no sound, or one that is too long, too short or silent; the sentence
            does not say where it lies.
    """
    rate = models.recogniser.front_end.logmel.sample_rate
    return listen(models, hear(path, rate, limits), rate)


def hear(path: Path, rate: int, limits: PageLimits) -> Samples:
    """Return the sound (T,) in a file at a rate in Hz, its channels averaged.

    Raises:
        Refusal: The file is too large, no sound, or a sound that is too long or of too many
            channels.
    """
    try:
        size = path.stat().st_size
        if size > limits.upload_bytes:
            raise Refusal(
                413,
                "too_large",
                f"The file has {size / 1e6:.1f} MB, expected at most "
                f"{limits.upload_bytes / 1e6:g} MB; send a shorter clip.",
            )
        # The header alone: nothing is decoded before its length is known.
        with audio.opened(path) as sound:
            _check_header(sound.frames / sound.samplerate, sound.channels, limits)
        return read_in_range(path, sample_rate=rate)
    except AudioError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        raise Refusal(422, "not_sound", f"The clip {reason}; send another one.") from None
    except OSError:
        raise Refusal(410, "gone", "The clip is no longer here; send it again.") from None


def _check_header(seconds: float, channels: int, limits: PageLimits) -> None:
    if seconds > limits.seconds:
        raise Refusal(
            413,
            "too_long",
            f"The clip is {seconds:.1f} s long, expected at most {limits.seconds:g} s; "
            "cut it with the scissors below the clip, or send a shorter one.",
        )
    if channels > MOST_CHANNELS:
        raise Refusal(
            422,
            "too_many_channels",
            f"The clip has {channels} channels, expected at most {MOST_CHANNELS}; mix them down.",
        )


def speak_example(models: Models) -> tuple[int, Samples]:
    """Return rate in Hz and samples (T,) of a sentence that espeak-ng speaks.

    A voice of the synthetic corpus that no packaged network has heard in training, with the mean
    prosody of one label: the same sound each time.

    Raises:
        CorpusError: espeak-ng fails.
    """
    del models  # What runs in a worker is given its networks.
    label, sentence = EXAMPLE
    prosody = PROSODY[label]
    line: dict[str, Any] = {"text": SENTENCES[sentence]}
    for name in ("rate", "pitch", "pitch_range"):
        line[name] = round(getattr(prosody, name)[0])
    ((spoken, rate),) = speak(f"en+{EXAMPLE_VOICE}", [line])
    sound = soxr.resample(spoken.astype(np.float32), rate, EXAMPLE_RATE, quality="HQ")
    peak = np.float32(10 ** (prosody.level_db[0] / 20) / np.abs(sound).max())
    return EXAMPLE_RATE, sound * peak
