"""Sound out: WAV and FLAC files that appear whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from servax.errors import AudioError, SettingError, unwritable
from servax.files import whole_file
from servax.kinds import typed
from servax.runtime.samples import STEP_16_BIT, check_rate

IN_RANGE = 1.0 + STEP_16_BIT
"""Peak of a sound within full scale; less than a step of 16 bits beyond 1 is rounding."""
LARGEST_OF_16_BITS = 1.0 - STEP_16_BIT
"""The largest number of 16 bits lies one step below full scale."""
LARGEST = {"PCM_24": 1.0 - 2.0**-23, "PCM_32": 1.0 - 2.0**-31}
"""The same of more bits; as float32 that of 32 bits is 1, which libsndfile cuts to it."""
FLOATS = ("FLOAT", "DOUBLE")
WRITABLE = {".wav": "WAV", ".flac": "FLAC"}
HEADER_BYTES = 4096
"""In which libsndfile writes all that stands before the samples."""


@typed
def write(
    path: str | Path, waveform: npt.ArrayLike, sample_rate: int, *, subtype: str = "PCM_16"
) -> None:
    """Write one channel as WAV or FLAC; the file appears whole or not at all.

    Args:
        path: Ends in ``.wav`` or ``.flac``; its folder must exist.
        waveform: Samples (T,), full scale ±1; only float formats hold more.
        sample_rate: In hertz.
        subtype: Sample format in libsndfile's words: ``PCM_16``, ``PCM_24``, ``FLOAT``, …

    Raises:
        AudioError: The waveform is empty, not (T,), or holds NaN or infinity, or what `subtype`
            would clip; the folder is missing; the container cannot hold `subtype`.
        SettingError: `sample_rate` is outside its rule, or `waveform` of no floating-point type.
    """
    path = Path(path)
    check_rate(sample_rate)
    samples = _as_floats(waveform)
    if samples.ndim != 1 or samples.size == 0:
        raise AudioError(path, f"cannot write samples of shape {samples.shape}, expected (T,)")
    if not np.isfinite(samples).all():
        raise AudioError(path, "refuses to write NaN or infinite samples")
    peak = float(np.abs(samples).max())
    if peak > IN_RANGE and subtype not in FLOATS:
        reason = (
            f"would be clipped: its loudest sample is {peak:g} and full scale is 1; scale it down, "
            "or write a WAV of subtype FLOAT"
        )
        raise AudioError(path, reason, cause="too_loud")
    with created(path, sample_rate, subtype=subtype) as sound:
        sound.write(samples)


def _as_floats(waveform: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return samples as float32 or, where they are wider, float64: what libsndfile takes."""
    try:
        samples = np.asarray(waveform)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors that need a gradient
        samples = np.asarray(None)
    if samples.dtype.kind != "f":
        kind = type(waveform).__name__ if samples.dtype == object else str(samples.dtype)
        expected = "floating-point samples with full scale at 1"
        raise SettingError("the type of waveform", kind, expected)
    return samples.astype(np.float32 if samples.dtype.itemsize <= 4 else np.float64, copy=False)


@typed
@contextmanager
def created(
    path: str | Path, sample_rate: int, channels: int = 1, *, subtype: str = "PCM_16"
) -> Iterator[soundfile.SoundFile]:
    """Yield a new sound file to write to, which appears whole or not at all.

    One sound is one file: the hour at which floats were written is left out.

    Args:
        path: Ends in ``.wav`` or ``.flac``; its folder must exist.
        sample_rate: In hertz.
        channels: Of each frame.
        subtype: As in `write`.

    Raises:
        AudioError: The folder is missing, the container cannot hold `subtype`, or the file cannot
            be written; the sentence says what the system said.
    """
    path = Path(path)
    container = WRITABLE.get(path.suffix.lower())
    if container is None:
        raise AudioError(path, f"cannot write {path.suffix or 'no suffix'}, use .wav or .flac")
    if not soundfile.check_format(container, subtype):
        raise AudioError(path, f"{container} cannot hold {subtype!r} samples")
    if not path.parent.is_dir():
        raise AudioError(path, "its folder does not exist, create it first")
    steady = None
    try:
        with whole_file(path) as part, part.open("r+b") as file:
            steady = _Steady(file)
            with soundfile.SoundFile(
                steady, "w", int(sample_rate), int(channels), subtype, format=container
            ) as sound:
                yield sound
            if steady.error is not None:
                raise steady.error
            _forget_hour(file)
    except Exception as error:
        told = steady.error if steady is not None else None  # soundfile asserts, and hides it
        if told is None and not isinstance(error, OSError | soundfile.LibsndfileError):
            raise
        raise AudioError(path, unwritable(told or error)) from None


def encoded(
    samples: npt.NDArray[np.float32], sample_rate: int, container: str, subtype: str
) -> bytes:
    """Return the bytes of a sound file as `created` writes it.

    Args:
        samples: (T, channels).
        sample_rate: In hertz.
        container: ``WAV`` or ``FLAC``.
        subtype: As in `write`.

    Raises:
        ValueError, soundfile.LibsndfileError: The container cannot hold the rate or `subtype`.
    """
    file = io.BytesIO()
    soundfile.write(file, as_written(samples, subtype), sample_rate, subtype, format=container)
    _forget_hour(file)
    return file.getvalue()


def subtype_of(peak: float) -> str:
    """Return how a sound is written whose original has a peak: as floats beyond full scale."""
    return "PCM_16" if peak <= IN_RANGE else "FLOAT"


def as_written(samples: npt.NDArray[np.float32], subtype: str) -> npt.NDArray[np.float32]:
    """Return samples as they are written: what its bits would round beyond their range is cut."""
    if subtype in FLOATS:
        return samples
    return np.clip(samples, -1.0, LARGEST.get(subtype, LARGEST_OF_16_BITS))


def _forget_hour(file: BinaryIO) -> None:
    """Set the time stamp to 0 that libsndfile writes into the PEAK chunk of floats.

    soundfile knows no command of libsndfile by which the chunk could be left out.
    """
    file.seek(0)
    head = file.read(HEADER_BYTES)
    stamp = head.find(b"PEAK", 0, head.find(b"data")) + 12  # behind name, size and version
    if head.startswith(b"RIFF") and stamp >= 12:
        file.seek(stamp)
        file.write(bytes(4))


class _Steady:
    """A file object to write to that never raises: a callback from C has nowhere to raise to.

    What the system said is kept in `error`; libsndfile would call it "System error."
    """

    def __init__(self, file: io.BufferedRandom) -> None:
        self._file = file
        self.tell, self.readinto = file.tell, file.readinto
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return int(self._kept(self._file.write, data))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        found = self._kept(self._file.seek, offset, whence)  # may have to write what waits
        return int(found) if self.error is None else self._file.tell()

    def _kept(self, call: Callable[..., int], *given: Any) -> int:
        try:
            return call(*given)
        except OSError as error:
            self.error = error
            return 0
