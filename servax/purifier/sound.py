"""Purifies sound: the change that P makes to the log-Mel, applied to the waveform.

Works at the front-end's rate; what lies above its band passes unchanged but for the level, since
only the difference is added to the original. A long waveform is purified in windows that overlap
by half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.errors import SettingError, ShapeError
from servax.features import LogMel, fit_frames, set_level
from servax.features.resynthesis import apply_change

if TYPE_CHECKING:
    from servax.purifier.purifier import Purifier

SHORTEST_SECONDS = 0.05


@torch.inference_mode()
def purify_waveform(
    purifier: Purifier, waveform: NDArray[np.floating], sample_rate: int
) -> NDArray[np.float32]:
    """Return purified sound of the same length, rate and level.

    Args:
        purifier: In evaluation mode, on the CPU.
        waveform: (T,) mono samples, finite, at least .05 s.
        sample_rate: In Hz.

    Raises:
        ShapeError: `waveform` is not (T,) or is too short.
        SettingError: `sample_rate` is not positive, or a sample is not finite.
    """
    original = np.asarray(waveform, dtype=np.float32)
    if not 1_000 <= sample_rate <= 768_000:
        raise SettingError("sample_rate", sample_rate, "a rate in [1000, 768000] Hz")
    shortest = int(np.ceil(SHORTEST_SECONDS * sample_rate))
    if original.ndim != 1 or len(original) < shortest:
        raise ShapeError("waveform", original.shape, f"(T,) mono samples with T >= {shortest}")
    if not np.isfinite(original).all():
        raise SettingError("waveform", "not finite", "samples without NaN or infinity")
    rate = purifier.front_end.logmel.sample_rate
    heard = original if sample_rate == rate else soxr.resample(original, sample_rate, rate, "HQ")
    sound = torch.from_numpy(np.ascontiguousarray(heard)).unsqueeze(0)  # (1, T)
    cleaned = apply_change(sound, change_in_db(purifier, sound), LogMel(purifier.front_end.logmel))
    difference = (cleaned - sound)[0].numpy()
    if sample_rate != rate:
        difference = soxr.resample(difference, rate, sample_rate, "HQ")
    result = original.copy()
    length = min(len(original), len(difference))
    result[:length] += difference[:length]
    return at_level_of(result, original)


def at_level_of(sound: NDArray[np.float32], original: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (T,) `sound` at the RMS level of `original`: smoothing takes energy away."""
    wanted, given = (
        float(np.sqrt(np.mean(np.square(s, dtype=np.float64)))) for s in (original, sound)
    )
    return sound * np.float32(wanted / given) if given > 0 else sound


def change_in_db(purifier: Purifier, sound: Tensor) -> Tensor:
    """Return what P changes in the log-Mel (1, 1, M, F) of sound (1, T), in dB, for any length."""
    settings = purifier.front_end
    levelled = sound if settings.level_dbfs is None else set_level(sound, settings.level_dbfs)
    x = purifier.scale(LogMel(settings.logmel)(levelled))
    purified = purify_frames(purifier, x, settings.frames)
    change: Tensor = purifier.scale.inverse(purified) - purifier.scale.inverse(x)
    return change


def purify_frames(purifier: Purifier, x: Tensor, window: int) -> Tensor:
    """Return purified log-Mel (1, 1, M, F) for any F, by windows of the length P was trained on."""
    frames = x.shape[-1]
    if frames <= window:
        return purifier(fit_frames(x, window))[..., :frames]  # type: ignore[no-any-return]
    hop = window // 2
    starts = [*range(0, frames - window, hop), frames - window]
    fade = torch.bartlett_window(window + 2, periodic=False)[1:-1]
    total, weight = torch.zeros_like(x), torch.zeros(frames)
    for start in starts:
        piece = slice(start, start + window)
        total[..., piece] += purifier(x[..., piece]) * fade
        weight[piece] += fade
    return total / weight
