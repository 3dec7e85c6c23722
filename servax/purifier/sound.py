"""Purifies sound: the change that P makes to the log-Mel, applied to the waveform.

Works at the front-end's rate; what lies above its band passes unchanged but for the level, since
only the difference is added to the original. A sound longer than what P was trained on is purified
in windows, each brought to the level P was trained at. A limiter keeps what comes out within full
scale.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.features import LogMel, LogMelSettings, fit_frames, set_level
from servax.features.resynthesis import Resynthesis
from servax.runtime.limiter import Limited
from servax.runtime.rules import CORRECTIONS, at_level_of, checked, whole_windows
from servax.runtime.windows import Samples, Stream, Windows

if TYPE_CHECKING:
    from servax.purifier.purifier import Purifier


def purify_waveform(
    purifier: Purifier, waveform: NDArray[np.floating], sample_rate: int
) -> tuple[Samples, Limited]:
    """Return purified sound of the same length, rate and level, and what was limited in it.

    Args:
        purifier: In evaluation mode, on the CPU.
        waveform: (T,) mono samples, finite, at least .05 s.
        sample_rate: In Hz.

    Raises:
        ShapeError: `waveform` is not (T,) or is too short.
        SettingError: `sample_rate` is outside its rule, or a sample is not finite.
    """
    original = checked(waveform, sample_rate)
    stream = whole_sound(purifier, sample_rate)
    return np.concatenate([stream.feed(original), stream.finish()]), stream.limited


def whole_sound(purifier: Purifier, sample_rate: int) -> Stream:
    """Return a stream that gives, chunk by chunk, what `purify_waveform` gives at once."""
    return Stream(clip_of(purifier, sample_rate), windows_of(purifier, sample_rate), live=False)


def windows_of(purifier: Purifier, sample_rate: int) -> Windows:
    """Return the windows of long sounds: as long as P was trained on, overlapping by half."""
    return whole_windows(longest_clip(purifier, sample_rate), sample_rate)


def longest_clip(purifier: Purifier, sample_rate: int) -> int:
    """Return how many samples at a rate the purifier hears at once."""
    front_end = purifier.front_end
    seconds = (front_end.frames - 1) * front_end.logmel.hop_seconds
    return int(seconds * sample_rate)


def clip_of(purifier: Purifier, sample_rate: int) -> Callable[[Samples], Samples]:
    """Return what purifies one window (T,) at a rate; all its windows share one front-end."""
    way = _way(purifier.front_end.logmel)
    return lambda window: _purify_clip(purifier, way, window, sample_rate)


@lru_cache(maxsize=8)
def _way(settings: LogMelSettings) -> Resynthesis:
    """Return the way to log-Mel and back; all files of a folder share it."""
    return Resynthesis(LogMel(settings))


@torch.inference_mode()
def _purify_clip(
    purifier: Purifier, way: Resynthesis, original: Samples, sample_rate: int
) -> Samples:
    rate = way.logmel.settings.sample_rate
    heard = original if sample_rate == rate else soxr.resample(original, sample_rate, rate, "HQ")
    sound = torch.from_numpy(np.ascontiguousarray(heard)).unsqueeze(0)  # (1, T)
    difference = (change_clip(purifier, way, sound) - sound)[0].numpy()
    if sample_rate != rate:
        difference = soxr.resample(difference, rate, sample_rate, "HQ")
    result = original.copy()
    length = min(len(original), len(difference))
    result[:length] += difference[:length]
    return at_level_of(result, original)


def change_clip(purifier: Purifier, way: Resynthesis, sound: Tensor) -> Tensor:
    """Return sound (1, T) of the front-end's rate as its log-Mel changes, differentiably.

    A gain of each bin moves its neighbours' Mel bins and frames too, so what is heard of the result
    is not what P gave: the difference is applied again, `CORRECTIONS` times.
    """
    settings, logmel = purifier.front_end, way.logmel
    levelled = sound if settings.level_dbfs is None else set_level(sound, settings.level_dbfs)
    gain = levelled.norm() / sound.norm().clamp(min=1e-12)
    x = purifier.scale(logmel(levelled))
    wanted = purifier.scale.inverse(purifier(fit_frames(x, settings.frames))[..., : x.shape[-1]])
    change = wanted - purifier.scale.inverse(x)
    changed, unit = way.of(sound), logmel.settings.db_per_unit
    made = changed(unit * change)
    for _ in range(CORRECTIONS):
        change = change + wanted - purifier.scale.inverse(purifier.scale(logmel(gain * made)))
        made = changed(unit * change)
    return made
