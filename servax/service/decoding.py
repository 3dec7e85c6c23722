"""Turns the bytes of a request into samples, at a bounded cost in bytes, seconds and memory.

Nothing of a body is trusted. Its first bytes must be those of a container that people record into;
libsndfile's other parsers (IRCAM, PAF, SD2, W64, …) never see it. What its header says is checked
before anything is decoded, and decoding counts for itself, in blocks: a kilobyte of FLAC that
unfolds into an hour of silence stops at the limit. It all happens in memory; no file is written.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from servax import audio
from servax.audio.containers import behind_tags
from servax.errors import AudioCause, AudioError
from servax.runtime.samples import HIGHEST_RATE, LOUDEST, LOWEST_RATE, SHORTEST_SECONDS
from servax.service.responses import Refusal
from servax.service.settings import ServiceSettings

PCM = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
TELEPHONE = frozenset({"ULAW", "ALAW"})
SUBTYPES = {
    "WAV": PCM | TELEPHONE,
    "WAVEX": PCM | TELEPHONE,
    "RF64": PCM | TELEPHONE,
    "AIFF": PCM | TELEPHONE,
    "AU": PCM | TELEPHONE,
    "CAF": PCM | TELEPHONE,
    "FLAC": frozenset({"PCM_S8", "PCM_16", "PCM_24"}),
    "OGG": frozenset({"VORBIS", "OPUS"}),
    "MP3": frozenset({"MPEG_LAYER_III"}),
}
"""What is decoded. ADPCM, GSM, ALAC and the like are left out: rarely sent, read by old code."""
NAMES = "WAV (PCM or float), FLAC, OGG, MP3, AIFF, AU or CAF"
BLOCK_FRAMES = 1 << 16
MOST_SAMPLES = 12_000_000
"""Of all channels together: 120 s of stereo at 48 kHz are 11.5 million, 46 MB."""
REFUSED: dict[AudioCause, tuple[str, str]] = {
    "empty": ("empty", "The sound holds no samples; send one that does."),
    "no_samples": ("empty", "The sound holds no samples; send one that does."),
    "not_finite": ("not_finite", "The sound holds NaN or infinity; send finite samples."),
    "too_loud": (
        "too_loud",
        f"The sound holds a sample beyond {LOUDEST:g}; full scale is 1.",
    ),
    "rate": (
        "bad_rate",
        f"The sound's rate is not within {LOWEST_RATE} to {HIGHEST_RATE} Hz.",
    ),
    "joined": ("joined", "The body is several sounds one behind the other; send each alone."),
    "length_unknown": (
        "length_unknown",
        "The sound does not say how long it is; send WAV instead.",
    ),
}
"""The answer to what `servax.audio` refused, in words that quote nothing of the body."""
DAMAGED = ("damaged", "The sound is damaged or cut off; send the whole file.")


@dataclass(frozen=True)
class Decoded:
    """What a body turned out to hold."""

    samples: NDArray[np.float32]
    """(T, channels), finite; full scale is ±1, and float containers may go beyond it."""
    rate: int
    """In hertz."""
    container: str
    """``WAV``, ``FLAC``, ``OGG``, …"""

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return len(self.samples) / self.rate

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return int(self.samples.shape[1])

    @property
    def facts(self) -> dict[str, float | str]:
        """What may be logged of it."""
        return {
            "sound_seconds": round(self.seconds, 3),
            "rate": self.rate,
            "channels": self.channels,
            "container": self.container,
        }


def decode(body: bytes, settings: ServiceSettings) -> Decoded:
    """Return the sound in a body.

    Args:
        body: A whole sound file.
        settings: What it may cost.

    Raises:
        Refusal: The body is empty, too large, not sound of a container that is decoded, damaged,
            too long, too short, or slow to decode. Its sentence quotes nothing of the body.
    """
    if not body:
        raise Refusal(422, "empty", "The body is empty; send the bytes of one sound file.")
    if len(body) > settings.max_bytes:
        raise Refusal(
            413, "too_large", f"The body is larger than the {settings.max_bytes} bytes allowed."
        )
    started = time.thread_time()
    file = io.BytesIO(body)
    start = behind_tags(file)
    if container_of(body[start : start + 12]) is None:
        raise _not_sound()
    file.seek(0)
    try:
        with audio.open_sound(file, "body") as sound:
            _check_header(sound, settings)
            samples = _samples(sound, settings, started)
            rate, container = int(sound.samplerate), str(sound.format)
    except AudioError as error:
        if error.cause == "not_sound":
            raise _not_sound() from None
        raise Refusal(422, *REFUSED.get(error.cause, DAMAGED)) from None
    return Decoded(samples, rate, container.replace("WAVEX", "WAV"))


def container_of(body: bytes) -> str | None:
    """Return the container that the first bytes tell, None for one that is not decoded."""
    head, kind = body[:4], body[8:12]
    if head in (b"RIFF", b"RIFX", b"RF64", b"BW64") and kind == b"WAVE":
        return "WAV"
    if head == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return "AIFF"
    if len(head) == 4 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # a frame of layer III
        return "MP3"
    starts = {b"fLaC": "FLAC", b"OggS": "OGG", b".snd": "AU", b"caff": "CAF"}
    return starts.get(head)


def _check_header(sound: soundfile.SoundFile, settings: ServiceSettings) -> None:
    """Refuse what the header alone shows to be more, or less, than is decoded."""
    if sound.subtype not in SUBTYPES.get(sound.format, frozenset()):
        raise _not_sound()
    if sound.channels > settings.max_channels:
        raise Refusal(
            422,
            "too_many_channels",
            f"The sound has {sound.channels} channels, expected at most {settings.max_channels}.",
        )
    if sound.frames > _most_frames(sound, settings):
        raise _too_long(sound, settings)


def _most_frames(sound: soundfile.SoundFile, settings: ServiceSettings) -> int:
    return min(
        int(settings.max_seconds * int(sound.samplerate)), MOST_SAMPLES // int(sound.channels)
    )


def _samples(
    sound: soundfile.SoundFile, settings: ServiceSettings, started: float
) -> NDArray[np.float32]:
    """Return samples (T, channels), decoded block by block within the limits."""
    rate, most = sound.samplerate, _most_frames(sound, settings)
    # Reserved, not yet used: pages that no block reaches cost nothing.
    samples = np.empty((min(sound.frames, most), sound.channels), dtype=np.float32)
    done = 0
    for block in audio.blocks(sound, "body", first=0, last=sound.frames, size=BLOCK_FRAMES):
        if done + len(block) > len(samples):
            raise _too_long(sound, settings)
        samples[done : done + len(block)] = block
        done += len(block)
        if time.thread_time() - started > settings.decode_seconds:
            raise Refusal(
                422,
                "too_slow_to_decode",
                f"Decoding took longer than {settings.decode_seconds:g} s; send WAV, or less "
                "sound.",
            )
    if done < SHORTEST_SECONDS * rate:
        raise Refusal(
            422,
            "too_short",
            f"The sound is {done / rate:.3f} s long, expected at least {SHORTEST_SECONDS} s.",
        )
    return samples[:done]


def _too_long(sound: soundfile.SoundFile, settings: ServiceSettings) -> Refusal:
    seconds = _most_frames(sound, settings) / sound.samplerate
    return Refusal(
        413,
        "too_long",
        f"The sound is longer than the {seconds:g} s allowed at {sound.samplerate} Hz and "
        f"{sound.channels} channel(s); send it in parts.",
    )


def _not_sound() -> Refusal:
    return Refusal(415, "not_sound", f"The body is not sound that is decoded here; send {NAMES}.")
