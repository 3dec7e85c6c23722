"""Sound in: any file libsndfile reads becomes mono float32 at one rate.

Reading stands on soundfile (libsndfile: WAV, FLAC, OGG, MP3, AIFF, AU, CAF, …), resampling on soxr
at its HQ setting. A file that is missing, empty, cut off, not sound, or that holds NaN is refused
in one sentence that starts with its path; nothing is repaired silently, because a recogniser
trained on half a recording learns half a recording.

What counts as cut off differs by container. WAV, AIFF, AU and CAF state the size of their data,
which libsndfile compares with the file ("should be"); FLAC and MP3 state a number of frames, OGG
marks its last page. `servax.audio.containers` reads what libsndfile would misread: sizes that were
never filled in, tags, several sounds in one file.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from servax.audio.containers import View, streamed, view_of
from servax.audio.writing import FLOATS, IN_RANGE
from servax.errors import AudioError, SettingError
from servax.kinds import typed
from servax.runtime.limiter import limited
from servax.runtime.samples import HIGHEST_RATE, LOUDEST, LOWEST_RATE, Samples, check_rate

END_SLACK_SECONDS = 0.1
"""How far an `end` may lie behind the last sample: tables round their times."""
MP3_SLACK_FRAMES = 1152
"""MP3 counts samples in blocks of 1152 and pads at both ends."""
MP3_PADDING_FRAMES = 5 * 1152
"""Most that encoders put around a sound, and libsndfile takes away."""
BLOCK_FRAMES = 1 << 20
"""Samples that are decoded at once: what a header promises is never allocated on trust."""
UNKNOWN_FRAMES = 1 << 62
"""libsndfile gives 2^63 - 1 frames to a FLAC file that leaves its length open."""
CODECS_WITH_MEMORY = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "OPUS")
LFS_POINTER = b"version https://git-lfs"
MALFORMED = 3
"""SF_ERR_MALFORMED_FILE of sndfile.h."""
NOT_SOUND = "is not sound that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, …)"
SIZE_LINE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


@typed
def read(
    path: str | Path, *, sample_rate: int = 16_000, start: float = 0.0, end: float | None = None
) -> Samples:
    """Return the sound between two times as one channel at one rate.

    Args:
        path: Any file libsndfile reads; channels are averaged.
        sample_rate: Rate of the result, in hertz.
        start: First moment wanted, in seconds.
        end: Moment after the last one wanted, in seconds; None or NaN reads to the end.

    Returns:
        Samples (T,), float32; full scale is ±1, and float files may go beyond it.

    Raises:
        AudioError: The file is missing, empty, cut off, not sound, holds NaN, infinity or samples
            beyond `LOUDEST`, or has no samples between `start` and `end`.
        SettingError: An argument is of another kind or outside its rule.
    """
    check_rate(sample_rate)
    frames, native_rate = _decoded(path, start, end)
    mono = frames.mean(axis=1, dtype=np.float32)  # (T,)
    if native_rate != sample_rate:
        mono = soxr.resample(mono, native_rate, sample_rate, quality="HQ")
    if mono.size == 0:
        raise AudioError(path, f"holds less than one sample at {sample_rate} Hz")
    return np.ascontiguousarray(mono, dtype=np.float32)


def read_in_range(
    path: str | Path, *, sample_rate: int, start: float = 0.0, end: float | None = None
) -> Samples:
    """Return what `read` returns, within full scale.

    Where a decoder (MP3, OGG) or the resampling overshoots, a limiter brings the sound back. A file
    of floats that goes beyond is refused: nobody knows which gain it wants.

    Args:
        path: Any file libsndfile reads.
        sample_rate: Of the result, in Hz.
        start: First moment wanted, in seconds.
        end: Moment after the last one; None or NaN for the end.

    Raises:
        AudioError: As `read`; or the file is of floats beyond full scale.
    """
    samples = read(path, sample_rate=sample_rate, start=start, end=end)
    if np.abs(samples).max() <= 1.0:
        return samples
    with opened(path) as sound:
        of_floats = sound.subtype in FLOATS
    if of_floats:
        peak = inspect(path, start=start, end=end).peak
        if peak > IN_RANGE:
            raise AudioError(path, beyond_full_scale(peak), cause="too_loud")
    return limited(samples, sample_rate)


def beyond_full_scale(peak: float) -> str:
    """Return the end of a sentence about a sound with a peak that 16 bits do not hold."""
    return (
        f"has its loudest sample at {peak:g}, expected at most 1, which is full scale: scale it "
        "down (divide by 32768 where integers of 16 bits were stored as floats)"
    )


@dataclass(frozen=True)
class Sound:
    """What a decoded file turned out to hold."""

    fingerprint: str
    """SHA-256 of rate, channels and native-rate samples: equal sound, equal hash."""
    seconds: float
    """How long it plays."""
    sample_rate: int
    """Native rate, in hertz."""
    channels: int
    """Number of channels before they are averaged."""
    peak: float
    """Largest absolute sample; 0 is digital silence, 1 full scale."""


@typed
def inspect(path: str | Path, *, start: float = 0.0, end: float | None = None) -> Sound:
    """Decode a file once and say what it holds.

    Args:
        path: Any file that `read` reads.
        start: First moment, in seconds.
        end: Moment after the last one, in seconds; None or NaN for the end.

    Raises:
        AudioError: As `read`.
    """
    frames, rate = _decoded(path, start, end)  # (T, channels)
    digest = hashlib.sha256(f"{rate} {frames.shape[1]} ".encode())
    digest.update((frames + np.float32(0.0)).astype("<f4").tobytes())  # -0.0 and 0.0 sound alike
    return Sound(
        fingerprint=digest.hexdigest(),
        seconds=len(frames) / rate,
        sample_rate=rate,
        channels=frames.shape[1],
        peak=float(np.abs(frames).max()),
    )


@typed
def duration_seconds(path: str | Path) -> float:
    """Return how long a file plays, in seconds, from its header alone.

    Raises:
        AudioError: The file is missing, empty, not sound or visibly cut off.
    """
    with opened(path) as sound:
        return float(sound.frames / sound.samplerate)


def read_whole(file: str | Path | bytes) -> tuple[Samples, int]:
    """Return the samples (channels, T) of a sound file, or of the bytes of one, and its rate.

    Raises:
        AudioError: As `read`.
    """
    frames, rate = _decoded(file)
    return np.ascontiguousarray(frames.T), rate


def _decoded(
    file: str | Path | bytes, start: float = 0.0, end: float | None = None
) -> tuple[Samples, int]:
    """Return samples (T, channels) at the native rate, and that rate."""
    opening: AbstractContextManager[soundfile.SoundFile]
    if isinstance(file, bytes):
        name, opening = "bytes", open_sound(io.BytesIO(file), "bytes")
    else:
        name, opening = str(file), opened(file)
    with opening as sound:
        first, last = stretch(sound, name, start, end)
        parts = list(blocks(sound, name, first=first, last=last, size=BLOCK_FRAMES))
        return parts[0] if len(parts) == 1 else np.concatenate(parts), int(sound.samplerate)


@typed
@contextmanager
def opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Yield a sound file that passed every check that needs no decoding.

    Raises:
        AudioError: The file is missing, empty, not sound or visibly cut off.
    """
    path = Path(path)
    # By its path libsndfile would look for a resource fork beside it, and believe the "._NAME" that
    # a Mac leaves beside every file on a foreign disk more than an MP3 itself.
    with regular(path) as file, open_sound(file, path) as sound:
        yield sound


def open_sound(file: io.BufferedIOBase, name: str | Path) -> soundfile.SoundFile:
    """Return the sound in a file object after every check that needs no decoding.

    Args:
        file: Read from its start; it must stay open as long as the sound is.
        name: What a refusal calls it.

    Raises:
        AudioError: It is empty, not sound, visibly cut off, or several sounds in one.
    """
    try:
        head = file.read(len(LFS_POINTER))
        if not head:
            raise AudioError(name, "is empty (0 bytes)", cause="empty")
        if head.startswith(LFS_POINTER):
            reason = "is a Git LFS pointer, not sound: run 'git lfs pull' beside it"
            raise AudioError(name, reason, cause="not_sound")
        view = view_of(file, name)
    except OSError as error:
        raise _unreadable(name, error) from None
    try:
        sound = _Forward(view)
    except soundfile.LibsndfileError as error:
        if view.error is not None:
            raise _unreadable(name, view.error) from None
        if error.code == MALFORMED:
            reason = "is damaged or cut off (its header promises more)"
            raise AudioError(name, reason, cause="damaged") from None
        raise AudioError(name, NOT_SOUND, cause="not_sound") from None
    try:
        _check_header(name, sound, view)
    except AudioError:
        sound.close()
        raise
    return sound


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound that is read from its start on where its codec needs what came before.

    soundfile seeks after each block that it reads, to where it is already; an MP3 decoder then
    forgets the bits that earlier frames left for later ones, and decodes noise.
    """

    def seekable(self) -> bool:
        """Say whether any sample can be gone to and is then what it is in the whole."""
        return self.subtype not in CODECS_WITH_MEMORY and bool(super().seekable())


def blocks(
    sound: soundfile.SoundFile, name: str | Path, *, first: int, last: int, size: int
) -> Iterator[Samples]:
    """Yield a stretch of an opened sound in blocks (T, channels), T <= `size`.

    Args:
        sound: What `open_sound` or `opened` gave, not yet read.
        name: What a refusal calls it.
        first: First sample wanted.
        last: Sample after the last one wanted, at most `sound.frames`.
        size: Samples of a block, the last one may be shorter.

    Raises:
        AudioError: The sound is damaged or cut off, or holds NaN, infinity or absurdly large
            samples.
    """
    slack = MP3_SLACK_FRAMES if sound.format == "MP3" and last == sound.frames else 0
    done = 0
    try:
        # Where no sample can be gone to (GSM 6.10, MP3), what lies before is decoded and left out.
        if soundfile.SoundFile.seekable(sound):
            done = sound.seek(first if sound.seekable() else 0)
        while done < last:
            wanted = min(size, (first if done < first else last) - done)
            frames = sound.read(wanted, dtype="float32", always_2d=True)
            if not len(frames):
                break
            done += len(frames)
            if done > first:
                _check_samples(name, frames)
                yield frames
    except soundfile.LibsndfileError as error:
        _check_device(sound, name)
        reason = str(error.error_string).strip(" .")
        raise AudioError(name, f"is damaged or cut off ({reason})", cause="damaged") from None
    if done < last - slack or done <= first:
        _check_device(sound, name)
        reason = (
            f"is cut off: {max(0, done - first)} samples of the {last - first} its header promises"
        )
        raise AudioError(name, reason, cause="damaged")


def _check_device(sound: soundfile.SoundFile, name: str | Path) -> None:
    """Refuse a file that the system could not read on: a disk or a network that fails."""
    error = getattr(sound.name, "error", None)
    if error is not None:
        raise _unreadable(name, error)


def _unreadable(name: str | Path, error: OSError) -> AudioError:
    return AudioError(name, f"cannot be read ({error.strerror or error})")


def _check_samples(name: str | Path, frames: Samples) -> None:
    """Refuse what is no number, and numbers whose squares would become infinite later."""
    peak = float(np.abs(frames).max())
    if not math.isfinite(peak):
        raise AudioError(name, "holds NaN or infinite samples", cause="not_finite")
    if peak > LOUDEST:
        reason = f"holds a sample of {peak:g}, expected at most {LOUDEST:g}; full scale is 1"
        raise AudioError(name, reason, cause="too_loud")


@typed
def stretch(
    sound: soundfile.SoundFile, name: str | Path, start: float, end: float | None
) -> tuple[int, int]:
    """Return the first sample between two times in seconds, and the one after the last.

    Raises:
        AudioError: The sound ends before `end`, or there is no sample between the two.
        SettingError: `start` or `end` is outside its rule.
    """
    if not (math.isfinite(start) and start >= 0):
        raise SettingError("start", start, "a number of seconds >= 0")
    if end is not None and not math.isnan(end) and not (math.isfinite(end) and end > start):
        raise SettingError("end", end, f"a number of seconds > start ({start})")
    rate = sound.samplerate
    duration = sound.frames / rate
    first, last = round(start * rate), sound.frames
    if end is not None and not math.isnan(end):
        if end > duration + END_SLACK_SECONDS:
            raise AudioError(name, f"ends at {duration:.3f} s, before the asked {end:.3f} s")
        last = min(round(end * rate), sound.frames)
    if first >= last:
        reason = f"has no samples from {start:.3f} s on, it is {duration:.3f} s long"
        raise AudioError(name, reason, cause="no_samples")
    return first, last


def regular(path: Path) -> io.BufferedIOBase:
    """Return a regular file, opened for reading bytes: never a pipe, which may wait for ever.

    Raises:
        AudioError: It is no regular file, is not there, or cannot be read.
    """
    try:
        if path.is_dir():
            raise AudioError(path, "is a folder, expected a sound file")
        if not path.exists():
            raise AudioError(path, missing(path))
        if not path.is_file():
            raise AudioError(path, "is not a regular file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(repr(str(path)), f"cannot be opened ({reason})") from None


def missing(path: Path) -> str:
    """Return what is wrong with a path where nothing is: a link to nothing may be fetched."""
    if not path.is_symlink():
        return "does not exist"
    reason = f"is a link to {path.readlink()}, which is not there; fetch what it stands for"
    return f"{reason} (git annex get, dvc pull), or remove the link"


def _check_header(name: str | Path, sound: soundfile.SoundFile, view: View) -> None:
    """Refuse an absurd rate, a promise of more data than there is, and no samples at all."""
    _check_device(sound, name)
    if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:
        raise AudioError(
            name,
            f"has a sample rate of {sound.samplerate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE}",
            cause="rate",
        )
    for claimed, found in SIZE_LINE.findall(sound.extra_info):
        if int(found) < int(claimed) < streamed(">I"):
            reason = f"is cut off: {found} bytes of the {claimed} its header promises"
            raise AudioError(name, reason, cause="damaged")
    if sound.frames <= 0:
        raise AudioError(name, "holds no samples", cause="no_samples")
    if view.samples is not None and view.samples > sound.frames + MP3_PADDING_FRAMES:
        seconds, read = (n / sound.samplerate for n in (view.samples, sound.frames))
        reason = (
            f"holds {seconds:.1f} s of MP3, of which only {read:.1f} s would be read, since its "
            "header does not count them right: make a WAV file of it"
        )
        raise AudioError(name, reason, cause="joined")
    if sound.frames >= UNKNOWN_FRAMES:
        reason = "does not say how long it is, as FLAC written to a pipe: write it to a file"
        raise AudioError(name, reason, cause="length_unknown")
