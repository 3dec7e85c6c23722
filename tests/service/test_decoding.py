"""What a body may be: good sound equals what soundfile reads, everything else has one answer."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from servax.errors import SettingError
from servax.service import Decoded, Refusal, ServiceSettings, decode, decoding
from servax.service.decoding import SUBTYPES

RATE = 16_000
LIMITS = ServiceSettings()
GOOD = sorted(
    (container, subtype)
    for container in SUBTYPES
    for subtype in SUBTYPES[container]
    if soundfile.check_format(container, subtype)
)
REFUSED = [
    ("WAV", "IMA_ADPCM"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "GSM610"),
    ("AIFF", "DWVW_16"),
    ("CAF", "ALAC_16"),
    ("AU", "G721_32"),
    ("W64", "PCM_16"),
    ("PAF", "PCM_16"),
    ("IRCAM", "PCM_16"),
    ("VOC", "PCM_16"),
    ("NIST", "PCM_16"),
    ("SVX", "PCM_16"),
    ("MAT5", "PCM_16"),
    ("PVF", "PCM_16"),
    ("SDS", "PCM_16"),
    ("XI", "DPCM_16"),
    ("RAW", "PCM_16"),
]


def noise(seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    draws = np.random.default_rng(0).normal(0, 0.1, (round(seconds * RATE), channels))
    return draws.astype(np.float32)


def file_of(container: str, subtype: str, samples: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    samples = noise() if samples is None else samples
    soundfile.write(file, samples, RATE, format=container, subtype=subtype)
    return file.getvalue()


def silence(container: str, subtype: str, seconds: int) -> bytes:
    """Return a bomb: long silence, in pieces, since the Vorbis encoder dies of one long piece."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 48_000, 1, subtype, format=container) as written:
        for _ in range(seconds):
            written.write(np.zeros(48_000))
    return file.getvalue()


def wav(
    *, rate: int = RATE, channels: int = 1, bits: int = 16, tag: int = 1, block: int | None = None,
    data: int | None = None, riff: int | None = None, samples: int = 8_000,
) -> bytes:  # fmt: skip
    """Return a WAV file by hand, whose header may lie."""
    frame = channels * bits // 8 & 0xFFFF if block is None else block
    sound = np.random.default_rng(1).integers(-99, 99, samples).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)
    told = len(sound) if data is None else data
    rest = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", told) + sound
    return b"RIFF" + struct.pack("<I", len(rest) if riff is None else riff) + rest


def flac(total: int) -> bytes:
    """Return a FLAC file that says it holds `total` samples; 0 leaves it open."""
    file = bytearray(file_of("FLAC", "PCM_16"))
    file[21] = file[21] & 0xF0 | total >> 32
    file[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return bytes(file)


def floats(value: float) -> bytes:
    samples = noise()
    samples[4_000] = value
    return file_of("WAV", "FLOAT", samples)


def refused(code: str, status: int, body: bytes, limits: ServiceSettings = LIMITS) -> Refusal:
    with pytest.raises(Refusal, match=r"^(The|Decoding) .*\.$") as caught:
        decode(body, limits)
    assert (caught.value.code, caught.value.status) == (code, status)
    return caught.value


@pytest.mark.parametrize(("container", "subtype"), GOOD)
def test_decodes_what_soundfile_decodes(container: str, subtype: str) -> None:
    body = file_of(container, subtype, noise(channels=2))
    expected, rate = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)
    found = decode(body, LIMITS)
    assert (found.rate, found.container) == (rate, container.replace("WAVEX", "WAV"))
    assert found.samples.dtype == np.float32
    np.testing.assert_array_equal(found.samples, expected)


def test_decodes_across_blocks() -> None:
    samples = noise(3 * decoding.BLOCK_FRAMES / RATE + 0.1)
    np.testing.assert_array_equal(decode(file_of("WAV", "FLOAT", samples), LIMITS).samples, samples)


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_decodes_wav_that_was_streamed(claimed: int) -> None:
    assert decode(wav(data=claimed, riff=claimed), LIMITS).samples.shape == (8_000, 1)


def test_a_tag_before_the_sound_is_left_out() -> None:
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 0]) + bytes(128)
    for container, subtype in (("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16"), ("WAV", "PCM_16")):
        body = file_of(container, subtype)
        np.testing.assert_array_equal(
            decode(tag + body, LIMITS).samples, decode(body, LIMITS).samples
        )


@pytest.mark.parametrize(("container", "subtype"), REFUSED)
def test_refuses_containers_that_few_send(container: str, subtype: str) -> None:
    sentence = "The body is not sound that is decoded here; send WAV (PCM or float), FLAC, OGG, "
    refusal = refused("not_sound", 415, file_of(container, subtype))
    assert str(refusal).startswith(sentence)


def test_libsndfile_never_sees_a_container_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    tag = b"ID3\x04\x00\x00" + bytes(4)
    bodies = [file_of(c, s) for c, s in REFUSED if c not in ("WAV", "AIFF", "CAF", "AU")]
    monkeypatch.setattr(soundfile, "SoundFile", opened.append)
    for body in bodies:
        refused("not_sound", 415, body)
        refused("not_sound", 415, tag + body)
    assert opened == []


BROKEN: list[tuple[str, int, Callable[[], bytes]]] = [
    ("empty", 422, lambda: b""),
    ("empty", 422, lambda: wav(samples=0)),
    ("too_large", 413, lambda: bytes(LIMITS.max_bytes + 1)),
    ("not_sound", 415, lambda: b"This is a letter, not a recording."),
    ("not_sound", 415, lambda: b"RIFF"),
    ("not_sound", 415, lambda: b"version https://git-lfs.github.com/spec/v1\n"),
    ("not_sound", 415, lambda: zlib.compress(bytes(10**6))),
    ("not_sound", 415, lambda: b"ID3\x04\x00\x00" + bytes([127] * 4) + wav()),
    ("not_sound", 415, lambda: (b"ID3\x04\x00\x00" + bytes(4)) * 5 + wav()),
    ("damaged", 422, lambda: wav(data=2**31 - 2**20)),
    ("damaged", 422, lambda: wav()[:-100]),
    ("damaged", 422, lambda: file_of("AIFF", "PCM_16")[:-100]),
    ("damaged", 422, lambda: file_of("CAF", "PCM_16")[:-100]),
    ("damaged", 422, lambda: file_of("OGG", "VORBIS")[:-100]),
    ("damaged", 422, lambda: file_of("OGG", "OPUS")[:-100]),
    ("damaged", 422, lambda: file_of("FLAC", "PCM_16")[:-2_000]),
    ("damaged", 422, lambda: file_of("MP3", "MPEG_LAYER_III")[:2_000]),
    ("damaged", 422, lambda: flac(8_001)),
    ("too_long", 413, lambda: flac(2**36 - 1)),
    ("length_unknown", 422, lambda: flac(0)),
    ("too_many_channels", 422, lambda: wav(channels=3)),
    ("too_many_channels", 422, lambda: wav(channels=1_024)),
    ("not_sound", 415, lambda: wav(channels=65_535)),
    ("not_sound", 415, lambda: wav(channels=0)),
    ("not_sound", 415, lambda: wav(tag=0x11, bits=4, block=65_535)),
    ("bad_rate", 422, lambda: wav(rate=999)),
    ("bad_rate", 422, lambda: wav(rate=2**31 - 1)),
    ("too_short", 422, lambda: wav(samples=799)),
    ("not_finite", 422, lambda: floats(np.nan)),
    ("not_finite", 422, lambda: floats(-np.inf)),
    ("too_loud", 422, lambda: floats(1e30)),
]


@pytest.mark.parametrize(("code", "status", "build"), BROKEN)
def test_refuses(code: str, status: int, build: Callable[[], bytes]) -> None:
    refusal = refused(code, status, build())
    assert not re.search(r"/|\\x|Error|flac|decoder|libsndfile", str(refusal))


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
)
def test_a_bomb_is_refused_before_it_is_decoded(
    container: str, subtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = silence(container, subtype, 121)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    sentence = "The sound is longer than the 120 s allowed at 48000 Hz and 1 channel(s); send it "
    assert str(refused("too_long", 413, bomb)).startswith(sentence)


def test_a_sound_longer_than_its_header_says_stops_at_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def endless(_: soundfile.SoundFile, frames: int, **__: object) -> np.ndarray:
        return np.zeros((2 * frames, 1), dtype=np.float32)

    monkeypatch.setattr(soundfile.SoundFile, "read", endless)
    refused("too_long", 413, wav())


def test_samples_of_all_channels_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    body = file_of("WAV", "PCM_16", noise(channels=2))
    monkeypatch.setattr(decoding, "MOST_SAMPLES", 16_000)
    assert decode(body, LIMITS).samples.size == 16_000
    monkeypatch.setattr(decoding, "MOST_SAMPLES", 15_999)
    refused("too_long", 413, body)


def test_seconds_count_to_the_last_sample() -> None:
    assert len(decode(wav(), ServiceSettings(max_seconds=0.5)).samples) == 8_000
    refused("too_long", 413, wav(samples=8_001), ServiceSettings(max_seconds=0.5))


def test_the_shortest_sound_is_decoded() -> None:
    assert len(decode(wav(samples=800), LIMITS).samples) == 800


def test_slow_decoding_is_given_up() -> None:
    sentence = "Decoding took longer than 1e-09 s; send WAV, or less sound."
    refusal = refused("too_slow_to_decode", 422, wav(), ServiceSettings(decode_seconds=1e-9))
    assert str(refusal) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_bytes": 0}, "max_bytes is 0, expected a whole number of at least 1."),
        ({"max_channels": True}, "max_channels is True, expected a number."),
        ({"queue": 1.5}, "queue is 1.5, expected a whole number of at least 1."),
        ({"max_seconds": float("nan")}, "max_seconds is nan, expected a number of seconds > 0."),
        ({"decode_seconds": 0}, "decode_seconds is 0, expected a number of seconds > 0."),
    ],
)
def test_refuses_limits_that_are_none(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        ServiceSettings(**settings)  # type: ignore[arg-type]


def test_what_is_decoded_says_so() -> None:
    found = decode(wav(), LIMITS)
    assert isinstance(found, Decoded)
    assert (found.rate, found.container, found.samples.shape) == (RATE, "WAV", (8_000, 1))
