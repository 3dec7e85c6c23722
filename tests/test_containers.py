"""What stands around samples in a file never becomes sound, and no sound is left out in silence."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax import audio
from servax.audio.containers import View
from servax.audio.mp3 import frame_of
from servax.errors import AudioError

RATE = 16_000
ID3 = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
ID3V1 = b"TAG" + bytes(125)
LIST = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf60.16.100\0"
ODD = b"xyzw\x03\0\0\0abc\0"
CALLED_DATA = b"JUNK\x08\0\0\0data\0\0\0\0"
TWO_LISTS = LIST + b"id3 \x04\0\0\0abcd"
ANNO = b"ANNO\0\0\0\x04abcd"
INFO = b"info" + struct.pack(">Q", 4) + bytes(4)


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    sound = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.stack([sound] * channels, axis=1)


def made(container: str, subtype: str = "PCM_16", seconds: float = 1.0, **how: int | str) -> bytes:
    endian = str(how.pop("endian", "FILE"))
    rate, channels = int(how.get("rate", RATE)), int(how.get("channels", 1))
    file = io.BytesIO()
    sound = tone(seconds, rate, channels)
    soundfile.write(file, sound, rate, subtype, endian, container)
    return file.getvalue()


def heard(whole: bytes) -> np.ndarray:
    with audio.open_sound(io.BytesIO(whole), "it") as sound:
        return np.concatenate(list(audio.blocks(sound, "it", first=0, last=sound.frames, size=999)))


def directly(whole: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(whole), dtype="float32", always_2d=True)[0]


def replaced(whole: bytes, place: int, by: bytes) -> bytes:
    return whole[:place] + by + whole[place + len(by) :]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_list_calls_data_is_none(streamed: bool) -> None:
    whole = made("WAV")
    inside = b"LIST" + struct.pack("<I", 72) + b"INFOdata\0\0\0\0" + b"q" * 60
    at = whole.index(b"data")
    expected = directly(whole)
    if streamed:
        whole = replaced(whole, at + 4, bytes(4))
    whole = whole[:at] + inside + whole[at:]
    whole = replaced(whole, 4, struct.pack("<I", len(whole) - 8))
    np.testing.assert_array_equal(heard(whole), expected)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("behind", [b"", LIST, ODD, CALLED_DATA, TWO_LISTS, LIST[:20], ID3V1])
@pytest.mark.parametrize("before", [b"", CALLED_DATA, bytes(5_000)])
def test_a_wave_file_that_was_never_closed_ends_where_chunks_begin(
    size: int, order: str, behind: bytes, before: bytes
) -> None:
    whole = made("WAV", endian="LITTLE" if order == "<" else "BIG")
    if order == ">" and len(behind) > 8 and behind not in (ID3V1, LIST[:20]):
        behind = ODD[:4] + struct.pack(">I", 3) + ODD[8:]
    if before and set(before) == {0}:
        before = b"JUNK" + struct.pack(f"{order}I", len(before)) + before
    elif before:
        before = before[:4] + struct.pack(f"{order}I", 8) + before[8:]
    data = whole.index(b"data")
    head = whole[:data] + before + b"data" + struct.pack(f"{order}I", size)
    with pytest.raises(AudioError, match=r"^it: holds no samples\.$") as refused:
        heard(head + behind)
    assert refused.value.cause == "no_samples"
    if behind in (b"", LIST, TWO_LISTS, ID3V1):  # what no one can tell from samples is sound
        np.testing.assert_array_equal(heard(head + whole[data + 8 :] + behind), directly(whole))


@pytest.mark.parametrize("size", [0, 8, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("frames", [0, RATE, 0xFFFFFFFF])
def test_an_aiff_file_that_was_never_closed(size: int, frames: int) -> None:
    whole = made("AIFF")
    place = whole.index(b"SSND")
    unclosed = replaced(whole, place + 4, struct.pack(">I", size))
    unclosed = replaced(unclosed, unclosed.index(b"COMM") + 10, struct.pack(">I", frames))
    for behind in (b"", ANNO):
        np.testing.assert_array_equal(heard(unclosed + behind), directly(whole))
        with pytest.raises(AudioError, match="holds no samples"):
            heard(unclosed[: place + 8] + bytes(8) + behind)


@pytest.mark.parametrize("size", [0, 4, 2**64 - 1])
def test_a_caf_file_that_was_never_closed(size: int) -> None:
    whole = made("CAF")
    place = whole.index(b"data")
    unclosed = replaced(whole, place + 4, struct.pack(">Q", size))
    for behind in (b"", INFO):
        np.testing.assert_array_equal(heard(unclosed + behind), directly(whole))
        with pytest.raises(AudioError, match="holds no samples"):
            heard(unclosed[: place + 12] + bytes(4) + behind)


@pytest.mark.parametrize("size", [0, 24, 2**63 - 1, 2**64 - 1])
def test_what_stands_behind_the_samples_of_a_w64_file_is_no_sound(size: int) -> None:
    whole = made("W64")
    place = whole.index(b"data")
    junk = b"junk" + whole[place + 4 : place + 16] + struct.pack("<Q", 32) + bytes(8)
    unclosed = replaced(whole, place + 16, struct.pack("<Q", size))
    for behind in (b"", junk):
        np.testing.assert_array_equal(heard(whole + behind), directly(whole))
        np.testing.assert_array_equal(heard(unclosed + behind), directly(whole))
        with pytest.raises(AudioError, match="holds no samples"):
            heard(unclosed[: place + 24] + behind)


@pytest.mark.parametrize("size", [0, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("short", [0, 0xFFFFFFFF])
def test_an_rf64_file_that_was_never_closed(size: int, short: int) -> None:
    whole = made("RF64")
    place, wide = whole.index(b"data"), whole.index(b"ds64")
    unclosed = replaced(whole, wide + 16, struct.pack("<Q", size))
    unclosed = replaced(unclosed, place + 4, struct.pack("<I", short))
    for behind in (b"", LIST):
        np.testing.assert_array_equal(heard(unclosed + behind), directly(whole))
        with pytest.raises(AudioError, match="holds no samples"):
            heard(unclosed[: place + 8] + behind)
    more = replaced(whole, wide + 16, struct.pack("<Q", 40_000))
    with pytest.raises(AudioError, match="is cut off: 32000 bytes of the 40000 its header promis"):
        heard(more)


def test_an_au_stream_ends_before_its_tag() -> None:
    whole = made("AU")
    unclosed = replaced(whole, 8, b"\xff" * 4)
    for behind in (b"", ID3V1):
        np.testing.assert_array_equal(heard(unclosed + behind), directly(whole))
        with pytest.raises(AudioError, match="holds no samples"):
            heard(unclosed[:24] + behind)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_stream_of_more_than_four_gigabytes_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(made("WAV")[:40] + struct.pack("<I", size))
    with path.open("r+b") as file:
        file.truncate(44 + 2 * RATE * 100_000)  # 3.2 GB, of which a file system keeps nothing
    assert audio.duration_seconds(path) == 100_000.0
    with path.open("r+b") as file:
        file.truncate(44 + 2 * RATE * 150_000)  # libsndfile would leave out what lies behind 4 GiB
    with pytest.raises(AudioError, match="holds more than 4 GiB, which its header cannot say"):
        audio.duration_seconds(path)


def test_millions_of_chunks_cost_no_time() -> None:
    whole = made("WAV")
    many = whole[:12] + 2_000_000 * b"JUNK\0\0\0\0" + whole[12:]
    began = time.thread_time()
    with pytest.raises(AudioError):
        heard(many)
    assert time.thread_time() - began < 5.0


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG", "MP3"])
def test_tags_around_a_sound_are_no_sound(container: str) -> None:
    whole = made(container, soundfile.default_subtype(container))
    expected = directly(whole)
    for tagged in (ID3 + whole, ID3 + ID3 + whole, whole + ID3V1, ID3 + whole + ID3V1):
        # libmpg123 rounds in another place where it is asked for fewer samples at once.
        np.testing.assert_allclose(heard(tagged), expected, atol=1e-6 * (container == "MP3"))


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_sound_in_blocks_is_the_sound_at_once(
    container: str, subtype: str, seed: int | None
) -> None:
    sound = tone(3.0) if seed is None else np.random.default_rng(seed).normal(0, 0.1, 3 * RATE)
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, subtype, format=container)
    whole = directly(file.getvalue())
    np.testing.assert_allclose(heard(file.getvalue()), whole, atol=1e-6)
    with audio.open_sound(io.BytesIO(file.getvalue()), "it") as opened:
        part = list(audio.blocks(opened, "it", first=20_000, last=41_000, size=777))
    np.testing.assert_allclose(np.concatenate(part), whole[20_000:41_000], atol=1e-6)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("FLAC", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
        ("WAV", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("W64", "PCM_16"),
        ("RF64", "PCM_16"),
    ],
)
def test_sounds_one_behind_another_are_refused(container: str, subtype: str) -> None:
    first = made(container, subtype)
    others = [made(container, subtype, 0.2, **h) for h in ({}, {"rate": 8_000}, {"channels": 2})]
    for other in others:
        for between in (b"", ID3, ID3V1):
            with pytest.raises(AudioError, match="it: holds several sounds one behind") as refused:
                heard(first + between + other)
            assert refused.value.cause == "joined"


def frames(whole: bytes) -> list[bytes]:
    """Return the frames of an MP3, by the lengths its headers tell."""
    found = []
    while len(whole) >= 4:
        frame = frame_of(whole[:4])
        assert frame is not None
        found.append(whole[: frame.length])
        whole = whole[frame.length :]
    return found


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (22_050, 1), (44_100, 2)])
def test_an_mp3_is_read_whole_or_refused(rate: int, channels: int) -> None:
    whole = made("MP3", "MPEG_LAYER_III", 4.0, rate=rate, channels=channels)
    assert len(heard(whole)) == 4 * rate
    counting, *sounding = frames(whole)
    assert b"Info" in counting or b"Xing" in counting
    # Without the frame that counts the others, libsndfile guesses from the first bit rate.
    bare = b"".join(sounding)
    guessed = len(directly(bare))
    assert guessed < 0.9 * 4 * rate
    with pytest.raises(AudioError, match=r"it: holds 4\.\d s of MP3, of which only \d\.\d s would"):
        heard(bare)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "GSM610"),
        ("WAV", "G721_32"),
        ("WAV", "NMS_ADPCM_16"),
        ("WAV", "NMS_ADPCM_24"),
        ("WAV", "NMS_ADPCM_32"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "MS_ADPCM"),
        ("WAV", "ULAW"),
        ("WAV", "ALAW"),
        ("W64", "GSM610"),
        ("AIFF", "GSM610"),
        ("AIFF", "IMA_ADPCM"),
        ("AU", "G721_32"),
        ("AU", "G723_24"),
        ("AU", "G723_40"),
        ("CAF", "ALAC_16"),
    ],
)
def test_codecs_of_telephones_are_read_and_their_cuts_noticed(
    container: str, subtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "call"
    whole = made(container, subtype, 2.0, rate=8_000)
    path.write_bytes(whole)
    with soundfile.SoundFile(path) as sound:
        expected = sound.read(sound.frames, dtype="float32")
    assert len(expected) >= 16_000
    np.testing.assert_array_equal(audio.read(path, sample_rate=8_000), expected)
    # There is no place to go to in some of them: what lies before is decoded and left out.
    stretch = audio.read(path, sample_rate=8_000, start=0.5, end=1.25)
    np.testing.assert_array_equal(stretch, expected[4_000:10_000])
    assert audio.inspect(path, start=0.5).seconds == pytest.approx(len(expected) / 8_000 - 0.5)
    for share in (0.6, 0.97):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AudioError, match="cut off"):
            audio.read(path, sample_rate=8_000)


def test_a_view_is_a_part_of_a_file_with_its_patches() -> None:
    file = io.BytesIO(bytes(range(100)))
    view = View(file, 10, 60, ((20, b"abcd"), (58, b"xyz")))
    expected = bytes(range(10, 20)) + b"abcd" + bytes(range(24, 58)) + b"xy"
    for size in (1, 7, 100):
        view.seek(0)
        found = b""
        buffer = bytearray(size)
        while read := view.readinto(buffer):
            found += buffer[:read]
        assert found == expected
    assert (view.seek(-2, io.SEEK_END), view.seek(1, io.SEEK_CUR), view.tell()) == (48, 49, 49)
