"""Triangular Mel filterbanks, in float32 and in torchaudio's order of operations.

The order matters: a filterbank built in float64 and rounded differs from
``torchaudio.functional.melscale_fbanks`` by 8e-5 relative, this one not at all.

Source: HTK book (O'Shaughnessy's formula) for ``htk``; Slaney's Auditory Toolbox for ``slaney``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

MelScale = Literal["htk", "slaney"]

# Slaney: linear up to 1 kHz (200/3 Hz per Mel), logarithmic above (27 steps per factor 6.4).
_SLANEY_HZ_PER_MEL = 200.0 / 3
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = math.log(6.4) / 27.0


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
    *, bins: int, mels: int, sample_rate: int, f_min: float, f_max: float, scale: MelScale
) -> Tensor:
    """Return triangular filters over the rows of a power or magnitude spectrum.

    Args:
        bins: Number of spectrum bins, ``window // 2 + 1``.
        mels: Number of filters.
        sample_rate: In Hz.
        f_min: Lower edge of the first filter in Hz.
        f_max: Upper edge of the last filter in Hz.
        scale: ``htk`` without normalisation, or ``slaney`` with unit-area filters (librosa's
            default pair).

    Returns:
        Filters (bins, mels), float32.
    """
    frequencies = torch.linspace(0, sample_rate // 2, bins)
    points = mel_to_hz(
        torch.linspace(hz_to_mel(f_min, scale=scale), hz_to_mel(f_max, scale=scale), mels + 2),
        scale=scale,
    )
    widths = points[1:] - points[:-1]
    slopes = points.unsqueeze(0) - frequencies.unsqueeze(1)  # (bins, mels + 2)
    falling = (-1.0 * slopes[:, :-2]) / widths[:-1]
    rising = slopes[:, 2:] / widths[1:]
    filters = torch.clamp(torch.minimum(falling, rising), min=0.0)
    if scale == "slaney":
        filters = filters * (2.0 / (points[2:] - points[:mels])).unsqueeze(0)
    return filters
