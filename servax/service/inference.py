"""What a worker computes that also classifies: what a recogniser says before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray

from servax.errors import SettingError
from servax.features.frontend import SILENCE_RMS
from servax.models import classes_of, frozen
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.runtime import NoiseWiener
from servax.service.decoding import Decoded
from servax.service.purifying import Purifying
from servax.service.responses import Classification, Refusal, Verdict


@dataclass(frozen=True)
class Models(Purifying):
    """A purifier and a recogniser that fit each other, both for inference on the CPU."""

    purifier: Purifier | NoiseWiener
    recogniser: Recogniser

    @classmethod
    def load(cls, purifier: str, recogniser: str) -> Models:
        """Return networks read from folders, packaged names or hub ids.

        A purifier may also be ``noise-wiener:20``, which fits any recogniser.

        Raises:
            CheckpointError: There is no such network, or it is broken.
            SettingError: The purifier was not trained for what the recogniser hears.
        """
        heard = Recogniser.from_pretrained(recogniser)
        heard.network = frozen(heard.network)
        if NoiseWiener.is_named(purifier):
            return cls(NoiseWiener.named(purifier), heard)
        cleaner = Purifier.from_pretrained(purifier).frozen()
        if not cleaner.fits(heard.scale, heard.front_end):
            raise SettingError(
                "purifier", purifier, f"one trained on the log-Mel and scale of {recogniser}"
            )
        return cls(cleaner, heard)

    @torch.inference_mode()
    def classify(self, sounds: Sequence[Decoded]) -> list[Classification | Refusal]:
        """Return what the recogniser says about sounds, all at once, or why it says nothing.

        Of a sound longer than the recogniser's input (about 6 s) the middle is heard.
        """
        audible = [not is_silent(self._heard(sound)) for sound in sounds]
        said = iter(self._classified(list(compress(sounds, audible))))
        return [next(said) if each else silent() for each in audible]

    def _classified(self, sounds: Sequence[Decoded]) -> list[Classification]:
        if not sounds:
            return []
        inputs = [self.recogniser.inputs(sound.samples.T, sound.rate) for sound in sounds]
        x = torch.cat(inputs)  # (B, 1, M, F)
        purified = self._purified(sounds, x)
        logits = self.recogniser.network(torch.cat([x, purified]))  # (2 B, C)
        classes_of(logits)  # NaN is no verdict
        before, after = logits.softmax(1).chunk(2)
        # What `Detector` calls the residual; it would purify once more.
        residual = (x - purified).abs().flatten(1).mean(1)  # (B,)
        return [
            Classification(
                before=verdict(self.recogniser.labels, p),
                after=verdict(self.recogniser.labels, q),
                residual=float(score),
                seconds=sound.seconds,
                heard_seconds=len(self._heard(sound)) / sound.rate,
                sample_rate=sound.rate,
                channels=sound.channels,
            )
            for sound, p, q, score in zip(sounds, before, after, residual, strict=True)
        ]

    def _purified(self, sounds: Sequence[Decoded], x: torch.Tensor) -> torch.Tensor:
        """Return purified log-Mels (B, 1, M, F) of sounds whose log-Mels are `x`."""
        if isinstance(self.purifier, Purifier):
            purified: torch.Tensor = self.purifier(x)
            return purified
        made = [(self.purifier.purify(sound.samples.T, sound.rate), sound.rate) for sound in sounds]
        return torch.cat([self.recogniser.inputs(*each) for each in made])

    def _heard(self, sound: Decoded) -> NDArray[np.float32]:
        """Return the mean of the channels where the recogniser hears it, (T,)."""
        settings = self.recogniser.front_end
        return middle(sound, settings.frames * settings.logmel.hop_seconds)


def middle(sound: Decoded, seconds: float) -> NDArray[np.float32]:
    """Return the mean of the channels in the middle of a sound, (T,)."""
    most = round(seconds * sound.rate)
    skipped = max(0, len(sound.samples) - most) // 2
    mono: NDArray[np.float32] = sound.samples[skipped : skipped + most].mean(axis=1)
    return mono


def verdict(labels: Sequence[str], probabilities: torch.Tensor) -> Verdict:
    """Return the most probable class by probabilities (C,), with all of them."""
    values = dict(zip(labels, probabilities.tolist(), strict=True))
    return Verdict(labels[int(probabilities.argmax())], values)


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Say whether nothing is heard in samples of any shape; full scale is 1."""
    return float(np.sqrt(np.mean(np.square(samples)))) < SILENCE_RMS


def silent() -> Refusal:
    """Return what is answered where there is nothing to hear."""
    return Refusal(422, "silent", "The sound is silent; send one with speech.")
