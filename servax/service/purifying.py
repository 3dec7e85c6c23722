"""What every worker computes: purified sound as a file. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soundfile

from servax.audio import encoded, subtype_of
from servax.runtime.limiter import Limited
from servax.runtime.samples import Samples
from servax.runtime.stream import SoundCleaner
from servax.service.decoding import Decoded
from servax.service.responses import Container, Purified, Refusal


@dataclass(frozen=True)
class Purifying:
    """A purifier for inference on the CPU."""

    purifier: SoundCleaner

    def purify(self, sound: Decoded, container: Container) -> Purified:
        """Return a WAV or FLAC file with each channel of a decoded sound purified.

        It has 16 bits, or floats where the sound that was sent goes beyond full scale.

        Raises:
            Refusal: FLAC is asked for, and cannot hold the rate or the floats of the sound.
        """
        subtype = subtype_of(float(np.abs(sound.samples).max()))
        purified, limited = self.samples(sound)
        try:
            file = encoded(purified, sound.rate, container, subtype)
        except (soundfile.LibsndfileError, ValueError):
            what = f"sound of {sound.rate} Hz" if subtype == "PCM_16" else "sound beyond full scale"
            raise Refusal(
                406, "not_as_flac", f"FLAC cannot hold {what}; ask for WAV with ?format=wav."
            ) from None
        return Purified(file, limited.samples, limited.decibels)

    def samples(self, sound: Decoded) -> tuple[Samples, Limited]:
        """Return purified samples (T, channels), and how much of them was lowered."""
        channels, limits = zip(
            *(self.purifier.whole(each, sound.rate) for each in sound.samples.T), strict=True
        )
        return np.stack(channels, axis=1), Limited.together(limits)
