"""What a worker computes: purified sound, and what the recogniser says before and after."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr
import torch

from servax.bulk.files import as_written, subtype_of, without_time
from servax.features import FrontEnd
from servax.models import classes_of
from servax.purifier.sound import purify_waveform
from servax.runtime.limiter import Limited
from servax.service.answers import Classification, Verdict
from servax.service.decoding import Decoded
from servax.service.models import Models
from servax.service.orders import Container, Purified
from servax.service.refusals import Refusal


class Computer:
    """The networks of a worker, ready to be used.

    Args:
        models: In evaluation mode, on the CPU.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._front_end = FrontEnd(models.recogniser.front_end)

    def purify(self, sound: Decoded, container: Container) -> Purified:
        """Return a WAV or FLAC file with each channel of a decoded sound purified.

        It has 16 bits, or floats where the sound that was sent goes beyond full scale.

        Raises:
            Refusal: FLAC is asked for, and cannot hold the rate or the floats of the sound.
        """
        purifier, subtype = self.models.purifier, subtype_of(float(np.abs(sound.samples).max()))
        channels, limits = zip(
            *(purify_waveform(purifier, each, sound.rate) for each in sound.samples.T), strict=True
        )
        purified = as_written(np.stack(channels, axis=1), subtype)  # (T, channels)
        file = io.BytesIO()
        try:
            with soundfile.SoundFile(
                file, "w", sound.rate, len(channels), subtype, format=container
            ) as written:
                without_time(written)
                written.write(purified)
        except (soundfile.LibsndfileError, ValueError):
            what = f"sound of {sound.rate} Hz" if subtype == "PCM_16" else "sound beyond full scale"
            raise Refusal(
                406, "not_as_flac", f"FLAC cannot hold {what}; ask for WAV with ?format=wav."
            ) from None
        limited = Limited.together(limits)
        return Purified(file.getvalue(), limited.samples, limited.decibels)

    @torch.inference_mode()
    def classify(self, sounds: Sequence[Decoded]) -> list[Classification]:
        """Return what the recogniser says about sounds, all at once.

        Of a sound longer than the recogniser's input (about 6 s) the middle is heard.
        """
        recogniser, purifier = self.models.recogniser, self.models.purifier
        x = recogniser.scale(torch.cat([self._front_end(self._heard(s)) for s in sounds]))
        # x: (B, 1, M, F)
        purified = purifier(x)
        logits = recogniser.network(torch.cat([x, purified]))  # (2 B, C)
        classes_of(logits)  # NaN is no verdict
        both = logits.softmax(1)
        # What `Detector` calls the residual; it would purify once more.
        residual = (x - purified).abs().flatten(1).mean(1)  # (B,)
        rows = zip(sounds, *both.chunk(2), residual, strict=True)
        return [
            Classification(
                before=self._verdict(p),
                after=self._verdict(q),
                residual=float(score),
                seconds=len(sound.samples) / sound.rate,
                sample_rate=sound.rate,
                channels=sound.samples.shape[1],
            )
            for sound, p, q, score in rows
        ]

    def _heard(self, sound: Decoded) -> torch.Tensor:
        """Return the mean of the channels at the front-end's rate, (1, T)."""
        mono = sound.samples.mean(axis=1, dtype=np.float32)
        rate = self._front_end.settings.logmel.sample_rate
        if sound.rate != rate:
            mono = soxr.resample(mono, sound.rate, rate, quality="HQ")
        return torch.from_numpy(np.ascontiguousarray(mono))[None]

    def _verdict(self, probabilities: torch.Tensor) -> Verdict:
        labels = self.models.recogniser.labels
        values = dict(zip(labels, probabilities.tolist(), strict=True))
        return Verdict(labels[int(probabilities.argmax())], values)
