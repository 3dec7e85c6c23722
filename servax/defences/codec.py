"""Lossy codecs in front of a classifier: what cannot be heard is thrown away, and attacks with it.

After Das et al. 2018 (ADAGIO). libsndfile encodes and decodes in memory, and itself removes the
delay of each codec. A codec has no gradient, so the identity stands in its place in the backward
pass (BPDA, Athalye et al. 2018).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.defences.waveforms import check_rate, check_waveforms
from servax.errors import ServaxError, SettingError


@dataclass(frozen=True)
class Format:
    """A codec, in libsndfile's words."""

    container: str
    subtype: str
    rates: tuple[int, ...] | None = None
    """Sample rates it takes, in Hz; None for any."""


FORMATS = {
    "mp3": Format(
        "MP3",
        "MPEG_LAYER_III",
        (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    ),
    "ogg-vorbis": Format("OGG", "VORBIS"),
    "ogg-opus": Format("OGG", "OPUS", (8_000, 12_000, 16_000, 24_000, 48_000)),
}
STRONGEST = 0.999
"""libsndfile refuses MP3 at a compression level of 1 (its encoder's quality ends below 10)."""


class Codec(nn.Module):
    """Encodes waveforms (B, T) on [-1, 1] and decodes them, on the CPU, one after the other.

    Args:
        sample_rate: In Hz.
        format: ``mp3``, ``ogg-vorbis`` or ``ogg-opus``.
        quality: In [0, 1]; 1 is the codec's best, 0 its smallest. At 16 kHz .5 is, for voiced
            sound, about 25 kbit/s of MP3, 34 of Vorbis and 120 of Opus.

    Raises:
        SettingError: A setting is outside its rule, or the codec does not take the sample rate.
        ServaxError: The libsndfile of this machine lacks the codec.
    """

    knowledge = "bpda"
    """A codec has no gradient: the backward pass takes the identity instead."""

    def __init__(self, sample_rate: int, format: str = "mp3", quality: float = 0.5) -> None:
        super().__init__()
        check_rate("sample_rate", sample_rate)
        if format not in FORMATS:
            raise SettingError.choice("format", format, FORMATS)
        self.format = FORMATS[format]
        rates = self.format.rates
        if rates is not None and sample_rate not in rates:
            expected = f"one that {format} takes ({', '.join(map(str, rates))} Hz)"
            raise SettingError("sample_rate", sample_rate, expected)
        if not 0 <= quality <= 1:
            raise SettingError("quality", quality, "a number in [0, 1]")
        if self.format.subtype not in soundfile.available_subtypes(self.format.container):
            raise ServaxError(
                f"libsndfile {soundfile.__libsndfile_version__} has no {format}; install version "
                "1.1 or later, or take soundfile's wheel, which brings one."
            )
        self.sample_rate = int(sample_rate)
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Return decoded x (B, T), with the identity as its gradient.

        Raises:
            SettingError: A sample is not finite: encoders may end the process over it.
        """
        check_waveforms(x)
        sound = x.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(sound).all():
            raise SettingError("x", "not finite", "samples without NaN or infinity")
        decoded = np.stack([self._round_trip(clip) for clip in sound])
        passed = torch.from_numpy(decoded).to(x).clamp(-1.0, 1.0)
        # x - x.detach() is exactly zero, so the values are the codec's to the last bit.
        return passed + (x - x.detach())

    def _round_trip(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one clip (T,) as it comes back."""
        file = io.BytesIO()
        with soundfile.SoundFile(
            file,
            "w",
            samplerate=self.sample_rate,
            channels=1,
            format=self.format.container,
            subtype=self.format.subtype,
            compression_level=min(1.0 - self.quality, STRONGEST),
        ) as encoder:
            encoder.write(clip)
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
        fitted = np.zeros_like(clip)
        length = min(len(clip), len(decoded))
        fitted[:length] = decoded[:length]
        return fitted
