"""What a speech encoder says of each sound of a corpus, for the feature cache; and noisy copies.

A copy is shifted in time by up to half a second and gets white or coloured noise at a random
signal-to-noise ratio. No gain is drawn: an encoder hears every sound at one level.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from servax.features import whisper
from servax.features.whisper import LONGEST, SAMPLE_RATE
from servax.kinds import check_types
from servax.models import SpeechEncoder, encoder
from servax.models.encoder import SHORTEST
from servax.training.seeding import generator

STEEPEST = 1.5
"""Largest exponent of coloured noise, whose power falls as 1 / f^exponent; 1 is pink, 2 brown."""


@dataclass(frozen=True)
class NoisyCopy:
    """How a copy of a sound is made; what is drawn follows from the sound, seed and number."""

    lowest_snr_db: float
    """In dB."""
    highest_snr_db: float
    """In dB."""
    shift_seconds: float
    """Largest shift."""
    seed: int
    """Of the training."""
    number: int
    """Which copy, from 1."""
    coloured: float = 0.5
    """Share of copies whose noise is coloured; that of the others is white."""

    def __post_init__(self) -> None:
        check_types(self)

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return the copy (1, T') of a sound (1, T) at 16 kHz."""
        heard = hashlib.sha256(waveform.numpy().tobytes()).hexdigest()
        draws = generator(self.seed, "noise", self.number, heard)
        share, snr, coloured, exponent = torch.rand(4, generator=draws).tolist()
        shift = round((2 * share - 1) * self.shift_seconds * SAMPLE_RATE)
        if shift < 0 and waveform.shape[1] + shift >= SHORTEST:
            waveform = waveform[:, -shift:]
        waveform = nn.functional.pad(waveform, (max(shift, 0), 0))
        spectrum = torch.fft.rfft(torch.randn(waveform.shape, generator=draws))
        if coloured < self.coloured:
            orders = torch.arange(spectrum.shape[1]).clamp(min=1)
            spectrum = spectrum * orders ** (-0.5 * STEEPEST * exponent)
        noise = torch.fft.irfft(spectrum, n=waveform.shape[1])
        decibels = self.lowest_snr_db + snr * (self.highest_snr_db - self.lowest_snr_db)
        return with_noise(waveform, noise, decibels)


def with_noise(waveform: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Return sounds (B, T) with noise (B, T) at a signal-to-noise ratio in dB."""
    power, added = (each.square().mean(dim=1, keepdim=True) for each in (waveform, noise))
    share: float = 10.0 ** (-snr_db / 10.0)
    return waveform + noise * (share * power / added).sqrt()


@dataclass(frozen=True)
class StatisticsSettings:
    """What decides the statistics of a sound."""

    encoder: str
    """SHA-256 of the encoder's weights."""
    depth: int
    """How many of its layers."""
    copy: NoisyCopy | None
    """How the copy is made; none for the sound as it was recorded."""


class EncoderStatistics:
    """What the feature cache keeps of a sound: what the layers of an encoder say of it.

    Args:
        heard_by: The encoder.
        copy: Makes a noisy copy first.
    """

    sample_rate = SAMPLE_RATE
    code: tuple[ModuleType, ...] = (encoder, whisper, sys.modules[__name__])

    def __init__(self, heard_by: SpeechEncoder, copy: NoisyCopy | None = None) -> None:
        self.encoder = heard_by
        self.settings = StatisticsSettings(heard_by.sha256, heard_by.depth, copy)
        self.shape = (heard_by.depth, 2 * heard_by.width)

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return the statistics (1, L, 2 D) of a sound (1, T), or of its middle 30 s."""
        start = max(waveform.shape[1] - LONGEST, 0) // 2
        sound = waveform[:, start : start + LONGEST]
        sound = nn.functional.pad(sound, (0, max(SHORTEST - sound.shape[1], 0)))
        if self.settings.copy is not None:
            sound = self.settings.copy(sound)[:, :LONGEST]
        statistics: Tensor = self.encoder(sound)
        return statistics
