"""Purifies sound: the change that P makes to the log-Mel, applied to the waveform.

Works at the front-end's rate; what lies above its band passes unchanged but for the level, since
only the difference is added to the original. A sound longer than what P was trained on is purified
in windows, each brought to the level P was trained at. A limiter keeps what comes out within full
scale.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from servax import audio
from servax.features import LogMel, LogMelSettings, Resynthesis, fit_frames, set_level
from servax.runtime.heard import in_kind
from servax.runtime.limiter import Limited
from servax.runtime.rules import CORRECTIONS, at_level_of, whole_windows
from servax.runtime.samples import Samples
from servax.runtime.windows import Stream, Windows

if TYPE_CHECKING:
    from servax.purifier.purifier import Purifier


def purify_sound(purifier: Purifier, sound: Any, sample_rate: int | None) -> Any:
    """Return purified sound of the same form, length, rate and level (`Purifier.purify`)."""

    def clean(original: Samples, rate: int) -> Samples:
        return purify_waveform(purifier, original, rate)[0]

    return in_kind(sound, sample_rate, clean, read_file)


def purify_waveform(
    purifier: Purifier, original: Samples, sample_rate: int
) -> tuple[Samples, Limited]:
    """Return one purified sound (T,) of the same length and level, and what was limited in it."""
    stream = whole_sound(purifier, sample_rate)
    return np.concatenate([stream.feed(original), stream.finish()]), stream.limited


def read_file(file: str | Path | bytes) -> tuple[Samples, int]:
    """Return the samples (channels, T) of a sound file, or of the bytes of one, and its rate.

    Raises:
        AudioError: It is missing, empty, cut off or not sound.
    """
    if isinstance(file, bytes):
        name: str | Path = "bytes"
        opened = audio.open_sound(io.BytesIO(file), name)
    else:
        name, opened = file, audio.opened(file)
    with opened as sound:
        every = audio.blocks(sound, name, first=0, last=sound.frames, size=audio.BLOCK_FRAMES)
        samples = np.concatenate(list(every)).T  # (channels, T)
        return np.ascontiguousarray(samples), int(sound.samplerate)


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
    way = _way(purifier.front_end.logmel, device_of(purifier))
    return lambda window: _purify_clip(purifier, way, window, sample_rate)


@lru_cache(maxsize=8)
def _way(settings: LogMelSettings, device: torch.device) -> Resynthesis:
    """Return the way to log-Mel and back on a device; all files of a folder share it."""
    return Resynthesis(LogMel(settings)).to(device)


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes; what has no weights does so on the CPU."""
    held = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if held is None else held.device


@torch.inference_mode()
def _purify_clip(
    purifier: Purifier, way: Resynthesis, original: Samples, sample_rate: int
) -> Samples:
    rate = way.logmel.settings.sample_rate
    heard = original if sample_rate == rate else soxr.resample(original, sample_rate, rate, "HQ")
    sound = torch.from_numpy(np.ascontiguousarray(heard)).unsqueeze(0)  # (1, T)
    sound = sound.to(way.weights.device)
    difference = (change_clip(purifier, way, sound) - sound)[0].cpu().numpy()
    if sample_rate != rate:
        difference = soxr.resample(difference, rate, sample_rate, "HQ")
    result = original.copy()
    length = min(len(original), len(difference))
    result[:length] += difference[:length]
    return at_level_of(result, original)


def type_of(module: nn.Module, other: Tensor) -> torch.dtype:
    """Return the type of a module's weights; that of `other` where it has none."""
    return next(module.parameters(), other).dtype


def change_clip(purifier: Purifier, way: Resynthesis, sound: Tensor) -> Tensor:
    """Return sound (1, T) of the front-end's rate as its log-Mel changes, differentiably.

    A gain of each bin moves its neighbours' Mel bins and frames too, so what is heard of the result
    is not what P gave: the difference is applied again, `CORRECTIONS` times.
    """
    settings, logmel = purifier.front_end, way.logmel
    levelled = sound if settings.level_dbfs is None else set_level(sound, settings.level_dbfs)
    gain = levelled.norm() / sound.norm().clamp(min=1e-12)
    x = purifier.scale(logmel(levelled))
    given = fit_frames(x, settings.frames).to(type_of(purifier.network, x))
    wanted = purifier.scale.inverse(purifier(given).to(x)[..., : x.shape[-1]])
    change = wanted - purifier.scale.inverse(x)
    changed, unit = way.of(sound), logmel.settings.db_per_unit
    made = changed(unit * change)
    for _ in range(CORRECTIONS):
        change = change + wanted - purifier.scale.inverse(purifier.scale(logmel(gain * made)))
        made = changed(unit * change)
    return made
