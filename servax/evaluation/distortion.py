"""How far an input was moved, per utterance: signal-to-noise ratios and levels in dB.

Inputs are waveforms (B, T), for which a signal-to-noise ratio is what a listener knows, or log-Mel
(B, 1, M, F) on [0, 1], for which it is a mere number and the largest change in dB says more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from servax.errors import SettingError, ShapeError
from servax.features import Scaling

__all__ = [
    "largest_change_db",
    "level_dbfs",
    "log_spectral_distance",
    "segmental_signal_to_noise_ratio",
    "signal_to_noise_ratio",
]

LSD_WINDOW = 512
"""Samples of a frame of the log-spectral distance."""
SEGMENT_DB = (-10.0, 35.0)
"""Ratios of a segment are clamped to this range (Hansen & Pellom 1998)."""


def signal_to_noise_ratio(x: Tensor, moved: Tensor) -> Tensor:
    """Return 10 log10(|x|² / |moved - x|²) of each utterance in dB, (B,) float64.

    Infinite where nothing moved, minus infinity where silence did.

    Args:
        x: Clean inputs (B, ...).
        moved: The same after a change, shape of `x`.

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
    """
    signal, noise = _energies(x, moved)
    ratio = 10.0 * torch.log10(signal / noise)
    return torch.where(noise == 0, torch.full_like(ratio, torch.inf), ratio)


def segmental_signal_to_noise_ratio(x: Tensor, moved: Tensor, *, segment_samples: int) -> Tensor:
    """Return the mean over segments of their ratio, each clamped to [-10, 35] dB, (B,) float64.

    Unlike the ratio of the whole, it falls when a change can be heard in a pause. Segments do not
    overlap; what does not fill a last one is left out, and so are segments of digital silence that
    stayed silent.

    Args:
        x: Clean waveforms (B, T).
        moved: The same after a change, (B, T).
        segment_samples: Length of a segment (20 to 30 ms is usual), at most T.

    Returns:
        (B,) in dB; `nan` for an utterance without a segment to judge.

    Raises:
        ShapeError: The shapes differ or are not (B, T).
        SettingError: `segment_samples` is not in [1, T].
    """
    if x.ndim != 2:
        raise ShapeError("x", x.shape, "waveforms (B, T)")
    if not 1 <= segment_samples <= x.shape[1]:
        raise SettingError("segment_samples", segment_samples, f"a length in [1, {x.shape[1]}]")
    _check_pair(x, moved)
    segments = (part.unfold(1, segment_samples, segment_samples) for part in (x, moved))
    clean, changed = (part.flatten(0, 1) for part in segments)  # (B n, segment)
    ratio = signal_to_noise_ratio(clean, changed).clamp(*SEGMENT_DB)
    silent = ((clean == 0) & (changed == 0)).all(dim=1)
    return ratio.masked_fill(silent, torch.nan).view(len(x), -1).nanmean(dim=1)


def log_spectral_distance(x: Tensor, moved: Tensor, *, range_db: float = 60.0) -> Tensor:
    """Return how far the short-time power spectra of two sounds lie apart, in dB.

    The root mean square over Fourier bins, of windows of 512 samples (Hann) every 256, averaged
    over frames (Gray and Markel 1976). Both spectra are cut off `range_db` below the loudest bin of
    `x`: what lies deeper is not heard and has no lower end in dB.

    Args:
        x: Waveforms (B, T), T at least 512.
        moved: Changed waveforms (B, T).
        range_db: How far below the loudest bin of `x` differences count, in dB.

    Returns:
        (B,) in dB; 0 where nothing changed, and for silence.

    Raises:
        ShapeError: The two are not of one shape (B, T), or T is below 512.
        SettingError: `range_db` is not above 0.
    """
    if not range_db > 0:
        raise SettingError("range_db", range_db, "a number of dB above 0")
    _check_pair(x, moved)
    if x.ndim != 2 or x.shape[1] < LSD_WINDOW:
        raise ShapeError("x", x.shape, f"(B, T) with T >= {LSD_WINDOW}")
    window = torch.hann_window(LSD_WINDOW).to(x)
    powers = [
        torch.stft(
            each, LSD_WINDOW, LSD_WINDOW // 2, window=window, center=False, return_complex=True
        )
        .abs()
        .square()
        for each in (x, moved)
    ]
    loudest = powers[0].amax(dim=(1, 2), keepdim=True)
    floor = (loudest * 10.0 ** (-range_db / 10.0)).clamp(min=torch.finfo(x.dtype).tiny)
    before, after = (10.0 * torch.log10(torch.maximum(power, floor)) for power in powers)
    distance: Tensor = (before - after).square().mean(dim=1).sqrt().mean(dim=1)
    return distance


def largest_change_db(x: Tensor, moved: Tensor, scale: Scaling) -> Tensor:
    """Return the largest change of a cell of each log-Mel in dB, (B,).

    Args:
        x: Clean log-Mel (B, 1, M, F) on [0, 1].
        moved: The same after a change.
        scale: What mapped dB to [0, 1].

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
    """
    _check_pair(x, moved)
    change = scale.inverse(moved.double()) - scale.inverse(x.double())
    return change.abs().flatten(1).amax(dim=1)


def level_dbfs(waveform: Tensor) -> Tensor:
    """Return the RMS level of waveforms (B, T) in dB below full scale, (B,); silence is -inf."""
    return 10.0 * torch.log10(waveform.double().pow(2).mean(dim=-1))


def _energies(x: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Return the energy of each input and of its change, (B,) float64."""
    _check_pair(x, moved)
    clean = x.double()
    change = moved.double() - clean
    return clean.pow(2).flatten(1).sum(dim=1), change.pow(2).flatten(1).sum(dim=1)


def _check_pair(x: Tensor, moved: Tensor) -> None:
    if x.ndim < 2 or x.numel() == 0:
        raise ShapeError("x", x.shape, "(B, ...) with at least one element")
    if moved.shape != x.shape:
        raise ShapeError("moved", moved.shape, f"{tuple(x.shape)}, the shape of x")
