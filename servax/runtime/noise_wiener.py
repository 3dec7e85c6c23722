"""White noise of a known level, then a Wiener filter that knows it; with NumPy alone.

Noise hides what an attacker put in; the filter gives back what speech is above it. Nothing is
trained. With Y the short-time spectrum of noisy sound, L the power of the noise in a bin and n
counting frames (decision-directed a priori SNR, Ephraim & Malah 1984, equations 51 and 53, with
smoothing a = .98; Wiener gain as in Scalart & Filho 1996):

    post(n) = |Y(n)|^2 / L
    prior(n) = a gain(n - 1)^2 post(n - 1) + (1 - a) max(post(n) - 1, 0),  prior(0) = a + ...
    gain(n) = max(prior(n) / (1 + prior(n)), .1)

The phase stays that of the noisy sound. Frames of 32 ms (Hann) begin 8 ms after each other. Noise
begins three hops before the sound and ends behind it, so that L is exact in every frame.

The level of the noise is relative to that of the sound's first 30 s, within the 8 kHz that a model
of 16 kHz hears: sound of 48 kHz gets as much noise below 8 kHz, and the same density above.

Differs from the paper: the gain is Wiener's and not that of the MMSE amplitude estimator, and L is
not estimated, since who adds the noise knows it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from servax.errors import SettingError
from servax.kinds import Rule, check_kind
from servax.runtime import limiter
from servax.runtime.limiter import Limiter
from servax.runtime.samples import Samples, check_rate
from servax.runtime.stream import NOTHING, SoundCleaner, Stream

SMOOTHING = 0.98
FLOOR = 0.1
HOP_MILLISECONDS = 8
HOPS = 4
"""In a frame; the squares of Hann windows that lie so add up to `OVERLAP` everywhere."""
OVERLAP = 1.5
LEVEL_SECONDS = 30.0
"""From the beginning of a sound, what its level is measured on: as much as recognisers hear."""
QUIETEST = 1e-6
"""Lowest level that noise is relative to, as a share of full scale: -120 dBFS."""
REFERENCE_RATE = 16_000
"""In Hz: noise of a level is as dense as white noise of this level at this rate."""
SNR_DB = Rule("a number in [0, 60] dB", lambda v: 0 <= v <= 60)
LEVEL_DBFS = Rule("a number in [-120, 0] dBFS", lambda v: -120 <= v <= 0)
NAME = "noise-wiener"
"""How options call it, with a ratio: ``noise-wiener:20``."""


class NoiseWiener(SoundCleaner):
    """Adds white noise of a known level to sound of any form and rate, and filters it out again.

    Who attacks is taken to know all of it but the draw; an answer is safest as the mean of the
    recogniser's probabilities over several calls (docs/defences.md).

    Args:
        snr_db: Of the noisy sound, in [0, 60] dB: level of its first 30 s to that of the noise
            below 8 kHz.
        generator: Draws the noise, anew for each channel and each call; default one that nobody
            can foresee, seeded by the system.

    Example:
        >>> cleaner = NoiseWiener(20.0, np.random.default_rng(0))
        >>> cleaner.purify(np.zeros(16_000, dtype=np.float32), sample_rate=16_000).shape
        (16000,)
    """

    def __init__(self, snr_db: float, generator: np.random.Generator | None = None) -> None:
        SNR_DB.check("snr_db", snr_db)
        self.snr_db = snr_db
        self.generator = np.random.default_rng() if generator is None else generator
        check_kind("generator", self.generator, np.random.Generator)

    @staticmethod
    def is_named(name: str) -> bool:
        """Say whether an option names it, rather than a folder or file that is there."""
        return name.startswith(f"{NAME}:") and not Path(name).exists()

    @classmethod
    def named(cls, name: str) -> NoiseWiener:
        """Return what an option names: ``noise-wiener:20``.

        Raises:
            SettingError: The ratio is no number in its range.
        """
        said = name.partition(":")[2]
        try:
            return cls(float(said))
        except (ValueError, SettingError):
            expected = f"{NAME}:SNR, {SNR_DB.expected}, as {NAME}:20"
            raise SettingError("purifier", name, expected) from None

    def whole_stream(self, sample_rate: int) -> Stream:
        """Return a stream that gives nothing before it has heard 30 s, or all of the sound."""
        return NoiseWienerStream(self.snr_db, self.generator, sample_rate)

    def stream(self, sample_rate: int, *, level_dbfs: float) -> Stream:
        """Return a stream that gives each sample 52 ms after it was heard, or earlier.

        Args:
            sample_rate: Of the chunks, in Hz.
            level_dbfs: Level (RMS) of the speech in dB below full scale, in [-120, 0], which the
                noise is relative to: a live stream cannot wait until it has measured it.

        Raises:
            SettingError: A value is outside its rule.
        """
        check_rate(sample_rate)
        LEVEL_DBFS.check("level_dbfs", level_dbfs)
        level = 10.0 ** (level_dbfs / 20.0)
        return NoiseWienerStream(self.snr_db, self.generator, sample_rate, level)


class NoiseWienerStream(Stream):
    """Takes chunks of sound of any size and gives filtered ones, together of the same length.

    With the same noise the result is that of `servax.defences.NoiseWiener` up to rounding, within
    full scale, and the same for any size of the chunks.

    Args:
        snr_db: Of the noisy sound, in dB.
        generator: Draws the noise.
        sample_rate: Of the chunks, in Hz.
        level: RMS level of the sound, as a share of full scale; None measures its first 30 s.
    """

    def __init__(
        self,
        snr_db: float,
        generator: np.random.Generator,
        sample_rate: int,
        level: float | None = None,
    ) -> None:
        self._hop = hop_at(sample_rate)
        guard, hold = limiter.lengths(sample_rate)
        super().__init__(sample_rate, HOPS * self._hop + guard, Limiter(guard, hold))
        self._generator, self._level = generator, level
        self._relative = relative_deviation(snr_db, sample_rate)
        self._window = hann(self._hop).astype(np.float32)
        self._waiting = NOTHING
        """Heard, and not yet noisy."""
        self._noisy: Samples | None = None
        """The last hops of noisy sound, of which no later frame was made; None before any."""
        self._prior: Samples | float = SMOOTHING
        """What the frame before leaves of the next one's a priori SNR."""
        self._sums = np.zeros(((HOPS - 1), self._hop), dtype=np.float32)
        """Of the frames so far, where later ones will add to them."""
        self._peak, self._given = 1.0, -(HOPS - 1) * self._hop
        """Largest sample, and where in the sound the next one that is given lies."""

    def _ready(self, samples: Samples, *, last: bool) -> Samples:
        self._waiting = np.concatenate([self._waiting, samples])
        if self._level is None:
            measured = round(LEVEL_SECONDS * self.sample_rate)
            if len(self._waiting) < measured and not last:
                return NOTHING
            power = np.square(self._waiting[:measured], dtype=np.float64)
            self._level = float(np.sqrt(power.mean())) if self.heard else 0.0
        if last:
            behind = -len(self._waiting) % self._hop + (HOPS - 1) * self._hop
            self._waiting = np.concatenate([self._waiting, np.zeros(behind, dtype=np.float32)])
        hops = len(self._waiting) // self._hop
        heard = self._waiting[: hops * self._hop]
        self._waiting = self._waiting[hops * self._hop :]
        deviation = np.float32(self._relative * max(self._level, QUIETEST))
        if self._noisy is None:
            self._noisy = deviation * self._noise((HOPS - 1) * self._hop)
        self._noisy = np.concatenate([self._noisy, heard + deviation * self._noise(len(heard))])
        filtered = self._filtered(self._noisy, float(deviation))
        self._noisy = self._noisy[len(heard) :]
        loudest = np.abs(heard).reshape(hops, self._hop).max(axis=1, initial=0.0)
        peaks = np.maximum.accumulate(np.maximum(loudest, np.float32(self._peak)))
        self._peak = float(peaks[-1]) if hops else self._peak
        first, end = max(-self._given, 0), self.heard - self._given
        self._given += len(filtered)
        ready = self._limiter.feed(filtered[first:end], peaks.repeat(self._hop)[first:end])
        return np.concatenate([ready, self._limiter.finish()]) if last else ready

    def _noise(self, count: int) -> Samples:
        return self._generator.standard_normal(count, dtype=np.float32)

    def _filtered(self, noisy: Samples, deviation: float) -> Samples:
        """Return the hops that are whole, as many samples as lie behind the first three hops."""
        size = HOPS * self._hop
        if len(noisy) < size:
            return NOTHING
        frames = sliding_window_view(noisy, size)[:: self._hop] * self._window  # (F, window)
        spectrum = np.fft.rfft(frames)  # (F, bins)
        level = deviation**2 * OVERLAP * self._hop
        post = ((spectrum.real**2 + spectrum.imag**2) / level).astype(np.float32)
        cleaned = np.fft.irfft(self._gains(post) * spectrum, n=size) * (self._window / OVERLAP)
        parts = cleaned.reshape(-1, HOPS, self._hop).astype(np.float32)
        sums = np.concatenate([self._sums, np.zeros((len(parts), self._hop), dtype=np.float32)])
        for number in range(HOPS):
            sums[number : number + len(parts)] += parts[:, number]
        self._sums = sums[len(parts) :]
        return sums[: len(parts)].reshape(-1)

    def _gains(self, post: Samples) -> Samples:
        """Return the gains (F, bins) of a posteriori SNR, behind those of the chunk before."""
        new = (1.0 - SMOOTHING) * np.maximum(post - 1.0, 0.0)
        gains = np.empty_like(post)
        for n in range(len(post)):
            prior = self._prior + new[n]
            gains[n] = np.maximum(prior / (prior + 1.0), FLOOR)
            self._prior = SMOOTHING * gains[n] ** 2 * post[n]
        return gains


def hop_at(sample_rate: int) -> int:
    """Return the hop at a rate, in samples; a multiple of eight, whose transforms are quick."""
    return HOP_MILLISECONDS * round(sample_rate / 1_000)


def relative_deviation(snr_db: float, sample_rate: int) -> float:
    """Return the standard deviation of the noise, as a share of the level of the sound."""
    return float(10.0 ** (-snr_db / 20.0) * math.sqrt(sample_rate / REFERENCE_RATE))


def hann(hop: int) -> NDArray[np.float64]:
    """Return the periodic Hann window of a frame, (HOPS hop,)."""
    window: NDArray[np.float64] = np.hanning(HOPS * hop + 1)[:-1]
    return window
