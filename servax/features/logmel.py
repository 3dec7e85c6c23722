"""Log-Mel spectrogram, differentiable down to the waveform.

Settings (paper, section 3.2.1; docs/method.md): torchaudio's, window 512, hop 256, 64 Mel bins.
`LogMel.speech_16k` equals ``10 * log10(max(MelSpectrogram, 1e-10))`` of torchaudio. The paper
prints 373 frames for 6 s, which no standard setting gives; fitting to 373 frames is
`fit_frames`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from servax.errors import SettingError, ShapeError
from servax.features.tensors import check_tensor, check_type, check_waveforms
from servax.kinds import COUNT, POSITIVE, Choice, Rules, check_kind, check_types

MelScale = Literal["htk", "slaney"]

# Slaney: linear up to 1 kHz (200/3 Hz per Mel), logarithmic above (27 steps per factor 6.4).
_SLANEY_HZ_PER_MEL = 200.0 / 3
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = math.log(6.4) / 27.0

LANES = 8
"""Columns that a matrix product computes at once; groups of other widths take longer."""


@dataclass(frozen=True)
class LogMelSettings:
    """What a log-Mel spectrogram is made of; the defaults are the paper's."""

    sample_rate: int = 16_000
    """Samples per second of the waveform, in Hz."""
    window_samples: int = 512
    """Length of a frame and of its Fourier transform, in samples."""
    hop_samples: int = 256
    """Distance between frames, in samples."""
    mels: int = 64
    """Number of Mel bins."""
    f_min: float = 0.0
    """Lower edge of the first Mel filter, in Hz."""
    f_max: float = 8_000.0
    """Upper edge of the last Mel filter, in Hz; at most half the sample rate."""
    window: Literal["hann", "hamming"] = "hann"
    """Window function (periodic)."""
    spectrum: Literal["power", "magnitude"] = "power"
    """What the Mel filters sum up."""
    mel_scale: MelScale = "htk"
    """`htk` without normalisation (torchaudio) or `slaney` with unit-area filters (librosa)."""
    logarithm: Literal["db", "natural"] = "db"
    """`db`: 10 log10(max(m, floor)); `natural`: ln(m + floor)."""
    floor: float = 1e-10
    """Smallest value under the logarithm."""

    RULES: ClassVar[Rules] = {
        **dict.fromkeys(("sample_rate", "window_samples", "hop_samples", "mels"), COUNT),
        "window": Choice(("hann", "hamming")),
        "spectrum": Choice(("power", "magnitude")),
        "mel_scale": Choice(("htk", "slaney")),
        "logarithm": Choice(("db", "natural")),
        "floor": POSITIVE,
    }

    def __post_init__(self) -> None:
        check_types(self)
        if self.hop_samples > self.window_samples:
            raise SettingError(
                "hop_samples", self.hop_samples, f"at most window_samples ({self.window_samples})"
            )
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise SettingError(
                "f_min, f_max",
                (self.f_min, self.f_max),
                f"0 <= f_min < f_max <= {self.sample_rate / 2:g} Hz, half the sample rate",
            )

    @property
    def hop_seconds(self) -> float:
        """Distance between frames in seconds."""
        return self.hop_samples / self.sample_rate

    @property
    def db_per_unit(self) -> float:
        """How many dB one unit of the output is (1 for `db`)."""
        if self.logarithm == "db":
            return 1.0
        per_neper = 10.0 if self.spectrum == "power" else 20.0
        return per_neper / math.log(10.0)


class LogMel(nn.Module):
    """Turns (B, T) waveforms into (B, 1, M, 1 + T // hop) log-Mel spectrograms.

    Frames are centred, the ends padded by reflection, as in torchaudio.

    Example:
        >>> LogMel.speech_16k()(torch.zeros(2, 16_000)).shape
        torch.Size([2, 1, 64, 63])
    """

    window: Tensor
    filters: Tensor

    def __init__(self, settings: LogMelSettings | None = None) -> None:
        super().__init__()
        s = self.settings = LogMelSettings() if settings is None else settings
        check_kind("settings", s, LogMelSettings)
        make_window = torch.hann_window if s.window == "hann" else torch.hamming_window
        filters = mel_filterbank(
            bins=s.window_samples // 2 + 1,
            mels=s.mels,
            sample_rate=s.sample_rate,
            f_min=s.f_min,
            f_max=s.f_max,
            scale=s.mel_scale,
        )
        # Both follow from the settings, so they are not saved with the weights.
        self.register_buffer("window", make_window(s.window_samples), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        # The product with the spectrum leaves out most zeros: group by group, each in its own rows.
        self._bins = []
        for number, (bins, mels) in enumerate(bands(filters)):
            self._bins.append(bins)
            self.register_buffer(f"band_{number}", filters[bins, mels].contiguous(), False)

    @classmethod
    def speech_16k(cls) -> LogMel:
        """Return the front-end of the paper: torchaudio's MelSpectrogram in dB at 16 kHz."""
        return cls(LogMelSettings())

    @classmethod
    def ren2020(cls) -> LogMel:
        """Return the front-end of Ren et al. 2020 ([18]; EIHW/Adversarial_Attacks_for_SER).

        Hamming window, magnitude, Slaney Mel bins from 20 Hz, ``ln(m + 1e-8)``.
        """
        return cls(
            LogMelSettings(
                window="hamming",
                spectrum="magnitude",
                mel_scale="slaney",
                f_min=20.0,
                logarithm="natural",
                floor=1e-8,
            )
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-Mel spectrograms of a batch.

        Args:
            waveform: (B, T) samples, T > window / 2.

        Returns:
            (B, 1, M, F) with F = 1 + T // hop; dB for the `db` logarithm.

        Raises:
            ShapeError: `waveform` is not (B, T) or is shorter than half a window.
            SettingError: It is of a wider type than the filters.
        """
        s = self.settings
        frames = self.frames_spectrum(waveform)  # (B, F, bins)
        wider = torch.promote_types(waveform.dtype, self.window.dtype)
        check_type("waveform", wider, self.window)
        if s.spectrum == "power":
            # |z|² without the root of |z|, which costs more than the transform.
            parts = torch.view_as_real(frames)
            squares = parts.square() if parts.requires_grad else parts.square_()
            energy = squares[..., 0] + squares[..., 1]
        else:
            energy = frames.abs()
        groups = [
            energy[..., bins] @ getattr(self, f"band_{number}")
            for number, bins in enumerate(self._bins)
        ]
        mel = torch.cat(groups, dim=-1).transpose(-1, -2)  # (B, M, F)
        if s.logarithm == "db":
            return torch.log10(mel.clamp(min=s.floor)).mul_(10.0).unsqueeze(1)
        return torch.log(mel + s.floor).unsqueeze(1)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Return the complex short-time spectrum (B, bins, F) of (B, T) waveforms.

        Raises:
            ShapeError: `waveform` is not (B, T) or is shorter than half a window.
        """
        return self.frames_spectrum(waveform).transpose(1, 2)

    def frames_spectrum(self, waveform: Tensor) -> Tensor:
        """Return the same frame by frame (B, F, bins), as it lies in memory.

        What `torch.stft` computes, bit by bit, without its slower way to reflect the ends.

        Raises:
            ShapeError: As `spectrum`.
        """
        check_tensor("waveform", waveform)
        s, half = self.settings, self.settings.window_samples // 2
        if waveform.ndim != 2 or waveform.shape[1] <= half:
            raise ShapeError(
                "waveform", waveform.shape, f"(B, T) with T > {half} samples (half a window)"
            )
        check_waveforms(waveform)
        before, behind = waveform[:, 1 : half + 1], waveform[:, -half - 1 : -1]
        whole = torch.cat([before.flip(1), waveform, behind.flip(1)], dim=1)
        frames = whole.unfold(1, s.window_samples, s.hop_samples)  # (B, F, window)
        return self.transform(frames * self.window)

    def transform(self, frames: Tensor) -> Tensor:
        """Return the complex spectrum (..., bins) of frames (..., window)."""
        spectrum: Tensor = torch.fft.rfft(frames)
        return spectrum

    def inverse_transform(self, spectrum: Tensor) -> Tensor:
        """Return the frames (..., window) of a spectrum (..., bins)."""
        frames: Tensor = torch.fft.irfft(spectrum, n=self.settings.window_samples)
        return frames


def hz_to_mel(hz: float, *, scale: MelScale) -> float:
    """Return the Mel value of a frequency in Hz."""
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hz / 700.0)
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    return _SLANEY_BREAK_MEL + math.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP


def mel_to_hz(mel: Tensor, *, scale: MelScale) -> Tensor:
    """Return frequencies in Hz for a tensor of Mel values, any shape."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    linear = _SLANEY_HZ_PER_MEL * mel
    log = _SLANEY_BREAK_HZ * torch.exp(_SLANEY_LOG_STEP * (mel - _SLANEY_BREAK_MEL))
    return torch.where(mel >= _SLANEY_BREAK_MEL, log, linear)


def mel_filterbank(
    *,
    bins: int,
    mels: int,
    sample_rate: int,
    f_min: float,
    f_max: float,
    scale: MelScale,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return triangular filters over the rows of a power or magnitude spectrum.

    In float32 and in torchaudio's order of operations: built in float64 and rounded they would
    differ from ``torchaudio.functional.melscale_fbanks`` by 8e-5 relative, these not at all.
    Source: HTK book (O'Shaughnessy's formula) for ``htk``; Slaney's Auditory Toolbox for
    ``slaney``.

    Args:
        bins: Number of spectrum bins, ``window // 2 + 1``.
        mels: Number of filters.
        sample_rate: In Hz.
        f_min: Lower edge of the first filter in Hz.
        f_max: Upper edge of the last filter in Hz.
        scale: ``htk`` without normalisation, or ``slaney`` with unit-area filters (librosa's
            default pair).
        dtype: In which it is computed.

    Returns:
        Filters (bins, mels) of `dtype`.
    """
    frequencies = torch.linspace(0, sample_rate // 2, bins, dtype=dtype)
    lowest, highest = (hz_to_mel(hz, scale=scale) for hz in (f_min, f_max))
    points = mel_to_hz(torch.linspace(lowest, highest, mels + 2, dtype=dtype), scale=scale)
    widths = points[1:] - points[:-1]
    slopes = points.unsqueeze(0) - frequencies.unsqueeze(1)  # (bins, mels + 2)
    falling = (-1.0 * slopes[:, :-2]) / widths[:-1]
    rising = slopes[:, 2:] / widths[1:]
    filters = torch.clamp(torch.minimum(falling, rising), min=0.0)
    if scale == "slaney":
        filters = filters * (2.0 / (points[2:] - points[:mels])).unsqueeze(0)
    return filters


def bands(filters: Tensor, parts: int = 3) -> tuple[tuple[slice, slice], ...]:
    """Return where neighbouring filters differ from zero, group by group.

    The product with a spectrum then leaves out most of what is multiplied by zero: with 64 filters
    of 257 rows, 70 % of the operations.

    Args:
        filters: (bins, mels), as `mel_filterbank` returns them.
        parts: How many groups at most; more save operations and cost calls.

    Returns:
        For each group its rows, and the columns of its filters.
    """
    size = LANES * math.ceil(filters.shape[1] / (LANES * parts))
    found = []
    for first in range(0, filters.shape[1], size):
        columns = slice(first, min(first + size, filters.shape[1]))
        rows = filters[:, columns].any(dim=1).nonzero().flatten().tolist()
        found.append((slice(rows[0], rows[-1] + 1) if rows else slice(0, 0), columns))
    return tuple(found)
