"""What a worker computes: purified sound, and what the recogniser says before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

from servax.audio import encoded, subtype_of
from servax.errors import SettingError
from servax.models import classes_of
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.runtime.limiter import Limited
from servax.service.decoding import Decoded
from servax.service.responses import Classification, Container, Purified, Refusal, Verdict


@dataclass(frozen=True)
class Models:
    """A purifier and a recogniser that fit each other, both for inference on the CPU."""

    purifier: Purifier
    recogniser: Recogniser

    @classmethod
    def load(cls, purifier: str, recogniser: str) -> Models:
        """Return networks read from folders, packaged names or hub ids.

        Raises:
            CheckpointError: There is no such network, or it is broken.
            SettingError: The purifier was not trained for what the recogniser hears.
        """
        heard = Recogniser.from_pretrained(recogniser)
        heard.network.eval().requires_grad_(False)
        cleaner = Purifier.from_pretrained(purifier).frozen()
        if not cleaner.fits(heard.scale, heard.front_end):
            raise SettingError(
                "purifier", purifier, f"one trained on the log-Mel and scale of {recogniser}"
            )
        return cls(cleaner, heard)

    def purify(self, sound: Decoded, container: Container) -> Purified:
        """Return a WAV or FLAC file with each channel of a decoded sound purified.

        It has 16 bits, or floats where the sound that was sent goes beyond full scale.

        Raises:
            Refusal: FLAC is asked for, and cannot hold the rate or the floats of the sound.
        """
        subtype = subtype_of(float(np.abs(sound.samples).max()))
        channels, limits = zip(
            *(self.purifier.whole(each, sound.rate) for each in sound.samples.T), strict=True
        )
        purified = np.stack(channels, axis=1)  # (T, channels)
        try:
            file = encoded(purified, sound.rate, container, subtype)
        except (soundfile.LibsndfileError, ValueError):
            what = f"sound of {sound.rate} Hz" if subtype == "PCM_16" else "sound beyond full scale"
            raise Refusal(
                406, "not_as_flac", f"FLAC cannot hold {what}; ask for WAV with ?format=wav."
            ) from None
        limited = Limited.together(limits)
        return Purified(file, limited.samples, limited.decibels)

    @torch.inference_mode()
    def classify(self, sounds: Sequence[Decoded]) -> list[Classification]:
        """Return what the recogniser says about sounds, all at once.

        Of a sound longer than the recogniser's input (about 6 s) the middle is heard.
        """
        inputs = [self.recogniser.inputs(sound.samples.T, sound.rate) for sound in sounds]
        x = torch.cat(inputs)  # (B, 1, M, F)
        purified = self.purifier(x)
        logits = self.recogniser.network(torch.cat([x, purified]))  # (2 B, C)
        classes_of(logits)  # NaN is no verdict
        before, after = logits.softmax(1).chunk(2)
        # What `Detector` calls the residual; it would purify once more.
        residual = (x - purified).abs().flatten(1).mean(1)  # (B,)
        return [
            Classification(
                before=self.verdict(p),
                after=self.verdict(q),
                residual=float(score),
                seconds=sound.seconds,
                sample_rate=sound.rate,
                channels=sound.channels,
            )
            for sound, p, q, score in zip(sounds, before, after, residual, strict=True)
        ]

    def verdict(self, probabilities: torch.Tensor) -> Verdict:
        """Return the most probable class by probabilities (C,), with all of them."""
        labels = self.recogniser.labels
        values = dict(zip(labels, probabilities.tolist(), strict=True))
        return Verdict(labels[int(probabilities.argmax())], values)
