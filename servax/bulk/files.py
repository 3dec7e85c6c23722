"""One file into another: the guard around every one, and purification in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from servax import audio
from servax.bulk.folders import same_file
from servax.bulk.orders import ITSELF, LOGMEL, Order, Outcome
from servax.errors import AudioError, PathError, SettingError, ShapeError, unwritable
from servax.files import write_whole
from servax.purifier import Purifier
from servax.purifier.sound import whole_sound
from servax.runtime.limiter import Limited
from servax.runtime.rules import SHORTEST_SECONDS

BLOCK_SECONDS = 30.0
LOUDEST = 1.0 - 2.0**-15
"""Largest sample of 16 bits."""
BEYOND_FULL_SCALE = (
    *audio.FLOATS,
    "VORBIS",
    "OPUS",
    "MPEG_LAYER_I",
    "MPEG_LAYER_II",
    "MPEG_LAYER_III",
)
"""Encodings whose samples may lie beyond full scale."""
SET_ADD_PEAK_CHUNK = 0x1050
"""SFC_SET_ADD_PEAK_CHUNK of sndfile.h: the chunk holds peaks and the hour of writing."""


def carry_out(
    order: Order, work: Callable[[Order], Outcome], *, overwrite: bool = False
) -> Outcome:
    """Do what an order says; whatever is wrong with its files is told, never raised.

    Args:
        order: What becomes what.
        work: Makes the target of the source, whole or not at all.
        overwrite: Replace a target that is there.
    """
    source, target = Path(order.source), Path(order.target)
    try:
        if same_file(source, target):
            raise PathError(target, ITSELF)
        if not _is_free(target, overwrite=overwrite):
            return Outcome(order.source, order.target, "skipped")
        return work(order)
    except PathError as error:
        said = str(error)
    except Exception as error:  # nothing about one file may end the others
        said = str(PathError(source, str(error) or type(error).__name__))
    return Outcome(order.source, order.target, "failed", sentence=said)


def purify_file(purifier: Purifier, order: Order, *, overwrite: bool = False) -> Outcome:
    """Purify what an order says; whatever is wrong with its files is told, never raised.

    Each channel is purified on its own. The target appears whole or not at all.

    Args:
        purifier: In evaluation mode, on the CPU.
        order: What becomes what.
        overwrite: Replace a target that is there.
    """
    logmel = Path(order.source).suffix.lower() == LOGMEL
    work = partial(_purify_logmel if logmel else _purify_sound, purifier)
    return carry_out(order, work, overwrite=overwrite)


def write_array(target: Path, array: NDArray[np.float32]) -> None:
    """Write an array as ``.npy``, whole or not at all.

    Raises:
        PathError: It cannot be written.
    """
    content = io.BytesIO()  # into a file, NumPy would hide what the system says of a full disk
    np.save(content, array, allow_pickle=False)
    write_whole(target, content.getvalue())


def _is_free(target: Path, *, overwrite: bool) -> bool:
    """Tell whether a target may be written, its folder made; false where it is there already."""
    try:
        if target.is_dir() or (target.exists() and not target.is_file()):
            raise PathError(target, "is there, and is no file that could be replaced; move it")
        target.parent.mkdir(parents=True, exist_ok=True)
        return overwrite or not target.exists()
    except (OSError, ValueError) as error:
        raise PathError(target, unwritable(error)) from None


def _purify_sound(purifier: Purifier, order: Order) -> Outcome:
    source, target = Path(order.source), Path(order.target)
    container = audio.WRITABLE[target.suffix.lower()]
    subtype = _subtype(order, source)
    if subtype in audio.FLOATS and not soundfile.check_format(container, subtype):
        reason = f"goes beyond full scale, which {container} cannot hold; write a .wav, or scale it"
        raise AudioError(source, reason, cause="too_loud")
    with audio.opened(source) as sound:
        rate, channels = int(sound.samplerate), int(sound.channels)
        first, last = audio.stretch(sound, source, order.start, order.end)
        streams = [whole_sound(purifier, rate) for _ in range(channels)]
        heard = 0
        with audio.created(target, rate, channels, subtype=subtype) as file:
            without_time(file)
            size = round(BLOCK_SECONDS * rate)
            for block in audio.blocks(sound, source, first=first, last=last, size=size):
                heard += len(block)
                ready = [s.feed(block[:, i]) for i, s in enumerate(streams)]
                file.write(as_written(np.stack(ready, axis=1), subtype))
            if heard < SHORTEST_SECONDS * rate:
                raise AudioError(
                    source, f"is {heard / rate:.3f} s long, expected at least {SHORTEST_SECONDS} s"
                )
            rest = [stream.finish() for stream in streams]
            file.write(as_written(np.stack(rest, axis=1), subtype))
    limited = Limited.together(stream.limited for stream in streams)
    return Outcome(
        order.source,
        order.target,
        "done",
        heard / rate,
        limited_samples=limited.samples,
        limited_db=limited.decibels,
        subtype=subtype,
    )


def _subtype(order: Order, source: Path) -> str:
    """Return how the purified sound of an order is written; that depends on the loudest sample."""
    with audio.opened(source) as sound:
        if sound.subtype not in BEYOND_FULL_SCALE:
            return "PCM_16"
        first, last = audio.stretch(sound, source, order.start, order.end)
        size = round(BLOCK_SECONDS * sound.samplerate)
        found = audio.blocks(sound, source, first=first, last=last, size=size)
        return subtype_of(max(float(np.abs(block).max()) for block in found))


def subtype_of(peak: float) -> str:
    """Return how a purified sound is written whose original has a peak: as floats beyond 1."""
    return "PCM_16" if peak <= audio.IN_RANGE else "FLOAT"


def as_written(samples: NDArray[np.float32], subtype: str) -> NDArray[np.float32]:
    """Return samples as they are written: what 16 bits would round beyond their range is cut."""
    return samples if subtype in audio.FLOATS else np.clip(samples, -1.0, LOUDEST)


def without_time(file: soundfile.SoundFile) -> None:
    """Keep the hour out of a file of floats: one sound, one file."""
    soundfile._snd.sf_command(file._file, SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)


@torch.inference_mode()
def _purify_logmel(purifier: Purifier, order: Order) -> Outcome:
    source = Path(order.source)
    try:
        with audio.regular(source) as file:
            x = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PathError(source, f"is no array that numpy.save wrote ({error})") from None
    mels = purifier.front_end.logmel.mels
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[0] != mels or x.shape[1] < 1:
        raise ShapeError("log-Mel", np.shape(x), f"({mels}, F)")
    if x.dtype.kind != "f" or not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise SettingError("log-Mel", "outside", "finite numbers in [0, 1], the purifier's scale")
    given = torch.from_numpy(x.astype(np.float32))[None, None]
    write_array(Path(order.target), purifier(given)[0, 0].numpy())
    return Outcome(order.source, order.target, "done")
