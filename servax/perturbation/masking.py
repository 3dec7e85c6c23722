"""What a listener does not hear beside a sound: the psychoacoustic masking threshold.

Lin & Abdulla 2015 (chapter 2) in the form of Qin et al. 2019, section 3: the loudest cell of the
clean sound is taken for 96 dB of sound pressure; every local maximum of a frame's spectrum above
the threshold in quiet is a tonal masker; of maskers closer than .5 Bark the louder one stays; each
spreads with two slopes on the Bark scale, and their powers and the threshold in quiet add up.

Two differences from Qin et al.: frames are centred, with silence beyond both ends, so that every
sample lies under full windows; and the threshold in quiet holds from 20 Hz instead of 1 Bark. The
`PsychoacousticMasker` of the adversarial-robustness-toolbox 1.20 is the same but for the distances
between its maskers, which it reads off the first bins of the Bark scale, not the maskers' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.errors import SettingError, ShapeError
from servax.kinds import Rule, Rules, check_types, typed
from servax.perturbation.balls import Ball

LOUDEST_DB = 96.0
"""Sound pressure level that the loudest cell of a sound is taken for."""
QUIETEST_DB = -200.0
"""Cells are at least this loud before that; digital silence has no logarithm."""
WINDOW_GAIN = (8.0 / 3.0) ** 0.5
"""Makes up for the energy that a Hann window takes away."""
SMALLEST_DISTANCE_BARK = 0.5
"""Of two maskers nearer than this, one is dropped."""
PASSES = 4
"""How often a change is scaled down; each pass leaves fewer cells above the threshold."""

Spectrum = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PsychoacousticMask:
    """How the threshold is computed; the defaults are those of Qin et al. 2019."""

    sample_rate: int
    """Samples per second of the waveform, in Hz; no default, since another one is another mask."""
    window_samples: int = 2_048
    """Length of a frame and of its Fourier transform, in samples; even."""
    hop_samples: int = 512
    """Distance between frames, in samples; at most half a window."""

    RULES: ClassVar[Rules] = {
        "sample_rate": Rule("a rate of at least 1000 Hz", lambda rate: rate >= 1_000),
        "window_samples": Rule("an even number from 16 up", lambda n: n >= 16 and n % 2 == 0),
    }

    def __post_init__(self) -> None:
        check_types(self)
        if not 1 <= self.hop_samples <= self.window_samples // 2:
            raise SettingError(
                "hop_samples", self.hop_samples, f"in [1, {self.window_samples // 2}]"
            )

    @typed
    def around(self, x: Tensor) -> Threshold:
        """Return the threshold of clean waveforms (B, T), T >= 1.

        Raises:
            ShapeError: `x` is not (B, T).
        """
        if x.ndim != 2 or x.numel() == 0:
            raise ShapeError("x", x.shape, "waveforms (B, T)")
        magnitude = self.spectrum(x.double()).abs().cpu().numpy()  # (B, bins, F)
        limits = np.stack([self._limits(one) for one in magnitude])
        return Threshold(torch.from_numpy(limits).to(_transformed(x).dtype).to(x.device), self)

    def share_above(self, x: Tensor, moved: Tensor) -> Tensor:
        """Return the share of time-frequency cells in which the change can be heard, (B,)."""
        return self.around(x).share_above(moved - x)

    def spectrum(self, x: Tensor) -> Tensor:
        """Return the complex short-time spectrum (B, bins, F) of (B, T)."""
        return torch.stft(
            x,
            self.window_samples,
            self.hop_samples,
            window=self._window(x),
            center=True,
            pad_mode="constant",
            return_complex=True,
        )

    def sound(self, spectrum: Tensor, samples: int) -> Tensor:
        """Return the waveforms (B, T) of short-time spectra (B, bins, F)."""
        return torch.istft(
            spectrum,
            self.window_samples,
            self.hop_samples,
            window=self._window(spectrum.real),
            center=True,
            length=samples,
        )

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.window_samples, dtype=like.dtype, device=like.device)

    def _limits(self, magnitude: Spectrum) -> Spectrum:
        """Return the largest magnitudes (bins, F) that are masked by a sound of `magnitude`."""
        factor = WINDOW_GAIN / self.window_samples
        with np.errstate(divide="ignore"):
            level = np.maximum(20.0 * np.log10(factor * magnitude), QUIETEST_DB)
        to_pressure = LOUDEST_DB - float(level.max())
        hertz = np.linspace(0.0, self.sample_rate / 2, len(magnitude))
        powers = [masked_power(frame, hertz) for frame in (level + to_pressure).T]
        back: float = 10.0 ** (-to_pressure / 20.0) / factor
        return back * np.sqrt(np.stack(powers, axis=1))


@dataclass(frozen=True, eq=False)
class Threshold:
    """The masking threshold of a batch of clean sounds."""

    limits: Tensor
    """Largest magnitudes (B, bins, F) of the short-time spectrum of a change that is masked."""
    mask: PsychoacousticMask
    """How it was computed."""

    def project(self, change: Tensor) -> Tensor:
        """Return changes (B, T) whose short-time spectrum is scaled down to the threshold.

        Each cell above it is brought onto it, its phase kept. The result is close, not exact:
        frames overlap, so the spectrum of the sound they add up to is not quite the scaled one.
        `PASSES` repetitions bring the two nearer.
        """
        quieter = _transformed(change)
        for _ in range(PASSES):
            spectrum = self.mask.spectrum(quieter)
            gain = (self.limits / spectrum.abs().clamp(min=1e-30)).clamp(max=1.0)
            quieter = self.mask.sound(spectrum * gain, change.shape[1])
        return quieter.to(change.dtype)

    def share_above(self, change: Tensor) -> Tensor:
        """Return the share of cells in which changes (B, T) exceed the threshold, (B,)."""
        change = _transformed(change)
        above = self.mask.spectrum(change).abs() > self.limits
        return above.flatten(1).to(change.dtype).mean(dim=1)


@dataclass(frozen=True, eq=False)
class Inaudible:
    """A ball whose changes are first brought under a masking threshold.

    The ball has the last word, so it holds exactly and the threshold nearly.
    """

    ball: Ball
    """Allowed changes."""
    threshold: Threshold
    """What is masked."""

    @property
    def radius(self) -> float:
        """Largest norm of an allowed change."""
        return self.ball.radius

    def norm(self, change: Tensor) -> Tensor:
        """Return the norm of the ball, (B,)."""
        return self.ball.norm(change)

    def project(self, change: Tensor) -> Tensor:
        """Return changes inside the ball, nearly under the threshold."""
        return self.ball.project(self.threshold.project(change))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the ball's steepest changes."""
        return self.ball.steepest(gradient)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return a draw from the ball, brought under the threshold."""
        return self.project(self.ball.sample(like, generator))


def _transformed(x: Tensor) -> Tensor:
    """Return `x` in a type that has Fourier transforms: float32 for bfloat16 and float16."""
    return x if x.dtype == torch.float64 else x.float()


def bark(hertz: Spectrum) -> Spectrum:
    """Return frequencies on the Bark scale (Zwicker & Terhardt 1980)."""
    turn: Spectrum = 13.0 * np.arctan(0.00076 * hertz) + 3.5 * np.arctan((hertz / 7500.0) ** 2)
    return turn


def threshold_in_quiet(hertz: Spectrum) -> Spectrum:
    """Return the absolute threshold of hearing in dB (Terhardt 1979); -inf below 20 Hz."""
    kilohertz = np.maximum(hertz, 20.0) / 1000.0
    level = 3.64 * kilohertz**-0.8 - 6.5 * np.exp(-0.6 * (kilohertz - 3.3) ** 2)
    return np.where(
        (hertz >= 20.0) & (hertz <= 20_000.0), level + 0.001 * kilohertz**4 - 12, -np.inf
    )


def find_maskers(level: Spectrum, hertz: Spectrum) -> tuple[NDArray[np.intp], Spectrum]:
    """Return the bins and the levels in dB of the maskers in one frame (bins,)."""
    inner = level[1:-1]
    bins = 1 + np.flatnonzero((inner > level[:-2]) & (inner > level[2:]))
    power = 10.0 ** (level / 10.0)
    levels = 10.0 * np.log10(power[bins - 1] + power[bins] + power[bins + 1])
    heard = levels > threshold_in_quiet(hertz[bins])
    bins, levels = bins[heard], levels[heard]
    place = bark(hertz[bins])
    kept: list[int] = []
    for masker in range(len(bins)):
        if not kept or place[masker] - place[kept[-1]] >= SMALLEST_DISTANCE_BARK:
            kept.append(masker)
        elif levels[masker] > levels[kept[-1]]:
            kept[-1] = masker
    return bins[kept], levels[kept]


def masked_power(level: Spectrum, hertz: Spectrum) -> Spectrum:
    """Return the power (bins,) up to which a frame of `level` in dB (bins,) masks a sound."""
    place = bark(hertz)
    bins, levels = find_maskers(level, hertz)
    distance = place - place[bins][:, None]  # (maskers, bins)
    upward = -27.0 + 0.37 * np.maximum(levels - 40.0, 0.0)
    slope = np.where(distance > 0, upward[:, None], 27.0)
    offset = -6.025 - 0.275 * place[bins]
    spread = (levels + offset)[:, None] + slope * distance
    quiet: Spectrum = 10.0 ** (threshold_in_quiet(hertz) / 10.0)
    quiet += (10.0 ** (spread / 10.0)).sum(axis=0)
    return quiet
