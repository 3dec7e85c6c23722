"""How far a purified sound lies from the original, as speech coding measures it."""

from __future__ import annotations

import torch
from torch import Tensor

from servax.errors import SettingError, ShapeError
from servax.evaluation.distortion import check_pair, signal_to_noise_ratio

LSD_WINDOW = 512
"""Samples of a frame of the log-spectral distance."""
SEGMENT_DB = (-10.0, 35.0)
"""Ratios of a segment are clamped to this range (Hansen & Pellom 1998)."""


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
    check_pair(x, moved)
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
    check_pair(x, moved)
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
