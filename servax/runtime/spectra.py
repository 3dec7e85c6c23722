"""Log-Mel and the way back to sound in NumPy: what `servax.features` computes with torch.

Same windows, filters, padding and order of operations; `tests/runtime` holds the two against each
other. Formulas and their sources stand in `servax.features.logmel`, `mel` and `resynthesis`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from servax.runtime.rules import LARGEST_GAIN_DB
from servax.runtime.settings import LogMelSettings

Array = NDArray[np.float32]
Spectrum = NDArray[np.complex64]
NEPERS_PER_DB = math.log(10.0) / 20.0
"""What one dB of power is in the logarithm of an amplitude."""


class LogMel:
    """Turns (T,) samples into (M, 1 + T // hop) log-Mel and brings changes of it back.

    Args:
        settings: Of the front-end.
    """

    def __init__(self, settings: LogMelSettings) -> None:
        self.settings = settings
        self.window = _window(settings)
        self.filters = mel_filters(settings)
        self.weights = _bin_weights(self.filters)

    def __call__(self, samples: Array) -> Array:
        """Return (M, F) log-Mel of (T,) samples, T > window / 2; dB for the `db` logarithm."""
        s = self.settings
        magnitude = np.abs(self.spectrum(samples))
        energy = np.square(magnitude) if s.spectrum == "power" else magnitude
        mel = self.filters.T @ energy  # (M, F)
        if s.logarithm == "db":
            return np.asarray(10.0 * np.log10(np.maximum(mel, s.floor)), dtype=np.float32)
        return np.asarray(np.log(mel + s.floor), dtype=np.float32)

    def spectrum(self, samples: Array) -> Spectrum:
        """Return the short-time spectrum (bins, F) of (T,) samples, ends padded by reflection."""
        s = self.settings
        padded = np.pad(samples, s.window_samples // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, s.window_samples)
        turned = np.fft.rfft(frames[:: s.hop_samples] * self.window, axis=1)
        return turned.T.astype(np.complex64)

    def changing(self, samples: Array) -> Callable[[Array], Array]:
        """Return what maps changes (M, F) in dB to (T,) samples with about that other log-Mel.

        The spectrum of the samples is computed once for all changes.

        Args:
            samples: (T,).
        """
        size, hop = self.settings.window_samples, self.settings.hop_samples
        # Behind the last frame's centre lies the edge of its window alone: one more frame, of the
        # reflected end, keeps clicks out.
        missing = -len(samples) % hop
        spectrum = self.spectrum(np.pad(samples, (0, missing), mode="reflect"))  # (bins, F)
        inside = slice(size // 2, size // 2 + len(samples))
        squares = np.broadcast_to(np.square(self.window), (spectrum.shape[1], size))
        weight = _joined(squares, hop)[inside]

        def changed(change_db: Array) -> Array:
            change = np.clip(self.weights @ change_db, -LARGEST_GAIN_DB, LARGEST_GAIN_DB)
            gain = np.exp(change * NEPERS_PER_DB).astype(np.float32)  # (bins, F)
            if missing:
                gain = np.concatenate([gain, gain[:, -1:]], axis=1)
            frames = np.fft.irfft((spectrum * gain).T, n=size, axis=1).astype(np.float32)
            return _joined(frames * self.window, hop)[inside] / weight

        return changed


def _joined(frames: Array, hop: int) -> Array:
    """Return the sum (T,) of frames (F, window) that begin `hop` samples after each other."""
    count, size = frames.shape
    total = np.zeros(size + hop * (count - 1), dtype=np.float32)
    for number, frame in enumerate(frames):
        total[number * hop : number * hop + size] += frame
    return total


def mel_filters(settings: LogMelSettings) -> Array:
    """Return triangular filters (bins, M) over the rows of a spectrum."""
    s = settings
    frequencies = np.linspace(0, s.sample_rate // 2, s.window_samples // 2 + 1, dtype=np.float32)
    low, high = (_hz_to_mel(hz, s.mel_scale) for hz in (s.f_min, s.f_max))
    points = _mel_to_hz(np.linspace(low, high, s.mels + 2, dtype=np.float32), s.mel_scale)
    widths = points[1:] - points[:-1]
    slopes = points[None, :] - frequencies[:, None]  # (bins, M + 2)
    falling, rising = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    filters = np.maximum(np.minimum(falling, rising), 0.0)
    if s.mel_scale == "slaney":
        filters = filters * (2.0 / (points[2:] - points[: s.mels]))
    return filters.astype(np.float32)


def _window(settings: LogMelSettings) -> Array:
    angle = 2.0 * np.pi * np.arange(settings.window_samples) / settings.window_samples
    high = 0.5 if settings.window == "hann" else 0.54
    return (high - (1.0 - high) * np.cos(angle)).astype(np.float32)


def _bin_weights(filters: Array) -> Array:
    """Return (bins, M) weights that sum to 1; a bin that no filter covers follows its neighbour."""
    total = filters.sum(axis=1)
    covered = np.flatnonzero(total > 0)
    nearest = covered[np.abs(np.arange(len(total))[:, None] - covered).argmin(axis=1)]
    return np.asarray(filters[nearest] / total[nearest, None], dtype=np.float32)


def _hz_to_mel(hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hz / 700.0)
    return hz / (200.0 / 3) if hz < 1000.0 else 15.0 + math.log(hz / 1000.0) * 27.0 / math.log(6.4)


def _mel_to_hz(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / np.float32(2595.0)) - 1.0), dtype=np.float32)
    log = 1000.0 * np.exp(math.log(6.4) / 27.0 * (mel - np.float32(15.0)))
    return np.where(mel >= 15.0, log, 200.0 / 3 * mel).astype(np.float32)
