from __future__ import annotations

import errno
import hashlib
import io
import re
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax import audio
from servax.audio.containers import View
from servax.errors import AudioError, SettingError

RATE = 16_000
FORMATS = [
    # suffix, container, subtype, largest error of a decoded sample
    (".wav", "WAV", "PCM_U8", 2**-7),
    (".wav", "WAV", "PCM_16", 2**-15),
    (".wav", "WAV", "PCM_24", 2**-23),
    (".wav", "WAV", "PCM_32", 2**-23),
    (".wav", "WAV", "FLOAT", 0.0),
    (".wav", "WAV", "DOUBLE", 0.0),
    (".flac", "FLAC", "PCM_16", 2**-15),
    (".flac", "FLAC", "PCM_24", 2**-23),
    (".aiff", "AIFF", "PCM_16", 2**-15),
    (".ogg", "OGG", "VORBIS", 0.1),
    (".mp3", "MP3", "MPEG_LAYER_III", 0.1),
]
LOSSLESS = [entry for entry in FORMATS if entry[1] not in ("OGG", "MP3")]


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time)


def refusal(path: Path, sentence: str) -> str:
    return f"^{re.escape(f'{path}: {sentence}')}$"


def cut(path: Path, share: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(RATE), RATE, subtype="PCM_16")
    return path


@pytest.mark.parametrize(("suffix", "container", "subtype", "error"), FORMATS)
def test_read_decodes(
    tmp_path: Path, suffix: str, container: str, subtype: str, error: float
) -> None:
    path = tmp_path / f"tone{suffix}"
    expected = tone(RATE).astype(np.float32)
    soundfile.write(path, expected, RATE, format=container, subtype=subtype)
    samples = audio.read(path)
    assert samples.dtype == np.float32
    assert samples.shape == (RATE,)
    np.testing.assert_allclose(samples, expected, rtol=0, atol=error)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_resampled_tone_is_the_tone_at_the_new_rate(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    samples = audio.read(path, sample_rate=RATE)
    assert abs(len(samples) - RATE) <= 1
    middle = slice(2_000, 14_000)  # away from the ends, where the filter sees silence
    np.testing.assert_allclose(samples[middle], tone(RATE)[middle], rtol=0, atol=1e-4)


def test_read_averages_channels(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = tone(RATE), tone(RATE, hertz=1000)
    soundfile.write(path, np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(audio.read(path), (left + right) / 2, atol=1e-7)


def test_read_takes_the_stretch_between_two_times(tmp_path: Path) -> None:
    path = tmp_path / "ramp.wav"
    ramp = np.linspace(-1, 1, 8_000, dtype=np.float32)
    soundfile.write(path, ramp, 8_000, subtype="FLOAT")
    stretch = audio.read(path, sample_rate=8_000, start=0.25, end=0.5)
    np.testing.assert_array_equal(stretch, ramp[2_000:4_000])
    rest = audio.read(path, sample_rate=8_000, start=0.25, end=float("nan"))
    np.testing.assert_array_equal(rest, ramp[2_000:])


def test_an_end_just_behind_the_file_reads_to_the_end(wav: Path) -> None:
    assert audio.read(wav, end=1.05).shape == (RATE,)


def test_a_name_without_meaning_is_read_by_its_content(tmp_path: Path, wav: Path) -> None:
    path = wav.rename(tmp_path / "tone.bin")
    assert audio.read(path).shape == (RATE,)


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF - 36])
def test_sizes_of_streamed_wav_files_are_accepted(wav: Path, claimed: int) -> None:
    whole = bytearray(wav.read_bytes())
    whole[4:8] = struct.pack("<I", claimed)
    whole[40:44] = struct.pack("<I", claimed)
    wav.write_bytes(whole)
    assert audio.read(wav).shape == (RATE,)


def test_bytes_behind_the_data_are_no_error(wav: Path) -> None:
    wav.write_bytes(wav.read_bytes() + b"LIST\x04\x00\x00\x00abcd")
    assert audio.read(wav).shape == (RATE,)


@pytest.mark.parametrize(
    ("suffix", "sentence"),
    [
        (".wav", "is cut off: 15978 bytes of the 32000 its header promises."),
        (".aiff", "is cut off: 15981 bytes of the 32008 its header promises."),
        (".flac", "is damaged or cut off (Error : flac decoder lost sync)."),
        (".ogg", "is cut off: its last OGG page is missing."),
    ],
)
def test_a_file_cut_in_half_is_refused(tmp_path: Path, suffix: str, sentence: str) -> None:
    path = tmp_path / f"half{suffix}"
    soundfile.write(path, tone(RATE), RATE)
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.read(cut(path, 0.5))


def test_a_cut_caf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.caf"
    soundfile.write(path, tone(RATE), RATE)
    sentence = "is cut off: 13956 bytes of the 32004 its header promises."
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.read(cut(path, 0.5))


def test_a_wav_file_with_an_empty_data_chunk_holds_no_samples(wav: Path) -> None:
    whole = wav.read_bytes()
    wav.write_bytes(whole[:40] + b"\0\0\0\0")
    with pytest.raises(AudioError, match=refusal(wav, "holds no samples.")):
        audio.read(wav)


def test_a_cut_mp3_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.mp3"
    soundfile.write(path, tone(RATE), RATE)
    with pytest.raises(AudioError, match=r"half\.mp3: is cut off: \d+ samples of the 16000 its"):
        audio.read(cut(path, 0.5))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".ogg"])
def test_no_cut_goes_unnoticed(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"part{suffix}"
    noise = np.random.default_rng(0).normal(size=3 * RATE) * 0.1
    soundfile.write(path, noise, RATE)
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: "):
        audio.read(cut(path, share))


def test_refuses_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "absent.wav"
    with pytest.raises(AudioError, match=refusal(path, "does not exist.")):
        audio.read(path)


def test_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=refusal(tmp_path, "is a folder, expected a sound file.")):
        audio.read(tmp_path)


def test_refuses_a_device() -> None:
    path = Path("/dev/zero")
    if not path.exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(AudioError, match=refusal(path, "is not a regular file.")):
        audio.read(path)


def test_refuses_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.touch()
    with pytest.raises(AudioError, match=refusal(path, "is empty (0 bytes).")):
        audio.read(path)


def test_refuses_a_file_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros(0), RATE)
    with pytest.raises(AudioError, match=refusal(path, "holds no samples.")):
        audio.read(path)


@pytest.mark.parametrize("name", ["text.wav", "text.raw", "text"])
def test_refuses_what_is_not_sound(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("This is a letter, not a recording.")
    sentence = "is not sound that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, …)."
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.read(path)


def test_names_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "pointer.wav"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    sentence = "is a Git LFS pointer, not sound: run 'git lfs pull' beside it."
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.read(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "bad.wav"
    samples = np.zeros((100, 2))
    samples[50, 1] = bad
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=refusal(path, "holds NaN or infinite samples.")):
        audio.read(path)


def test_refuses_samples_whose_squares_would_be_infinite(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    samples = np.zeros(RATE)
    samples[[50, 60]] = 32_768.0, -1e30
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert audio.read(path, end=55 / RATE).max() == 32_768.0
    sentence = "holds a sample of 1e+30, expected at most 65536; full scale is 1."
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.read(path)


@pytest.mark.parametrize(
    ("total", "sentence"),
    [
        (0, r"does not say how long it is, as FLAC written to a pipe: write it to a file\."),
        (2**36 - 1, r"is damaged or cut off \(.*\)\."),
    ],
)
def test_what_a_header_promises_is_not_allocated(tmp_path: Path, total: int, sentence: str) -> None:
    path = tmp_path / "lie.flac"
    soundfile.write(path, tone(RATE), RATE)
    file = bytearray(path.read_bytes())
    file[21] = file[21] & 0xF0 | total >> 32  # the 36 bits of STREAMINFO that count the samples
    file[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    path.write_bytes(file)
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: {sentence}$"):
        audio.read(path)


def test_what_a_mac_leaves_beside_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp3"
    soundfile.write(path, tone(RATE), RATE)
    (tmp_path / "._tone.mp3").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(4_000))
    with pytest.raises(soundfile.LibsndfileError, match="Error opening"):
        soundfile.SoundFile(path)
    assert audio.read(path).shape == (RATE,)


def test_a_seek_that_no_file_has_stays_where_it_is(wav: Path) -> None:
    with wav.open("rb") as file:
        for steady in (View(file), View(io.BytesIO(wav.read_bytes()))):
            steady.seek(3)
            assert (steady.seek(-1), steady.seek(2**70)) == (3, 3)


def test_a_header_that_points_before_the_file_says_nothing_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "before.aiff"
    soundfile.write(path, tone(RATE), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"COMM") + 26])  # and not the chunk of the samples
    with pytest.raises(AudioError, match=re.escape(str(path))):
        audio.read(path)
    assert capfd.readouterr().err == ""


def test_a_file_object_is_read_as_its_path_is(wav: Path) -> None:
    with audio.open_sound(io.BytesIO(wav.read_bytes()), "body") as sound:
        parts = list(audio.blocks(sound, "body", first=100, last=RATE, size=4_096))
    assert [len(part) for part in parts] == [4_096, 4_096, 4_096, RATE - 100 - 3 * 4_096]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], audio.read(wav)[100:])
    with pytest.raises(
        AudioError, match=r"^body: is cut off: 15978 bytes of the 32000 its"
    ) as error:
        audio.open_sound(io.BytesIO(wav.read_bytes()[:16_022]), "body")
    assert error.value.cause == "damaged"


@pytest.mark.parametrize("rate", [1, 999, 1_000_000])
def test_refuses_an_absurd_rate_in_the_header(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "absurd.wav"
    soundfile.write(path, np.zeros(100), rate)
    sentence = f"has a sample rate of {rate} Hz, expected 1000 to 768000."
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.read(path)


def test_refuses_a_start_behind_the_end(wav: Path) -> None:
    sentence = "has no samples from 2.000 s on, it is 1.000 s long."
    with pytest.raises(AudioError, match=refusal(wav, sentence)):
        audio.read(wav, start=2.0)


def test_refuses_an_end_far_behind_the_file(wav: Path) -> None:
    sentence = "ends at 1.000 s, before the asked 1.500 s."
    with pytest.raises(AudioError, match=refusal(wav, sentence)):
        audio.read(wav, end=1.5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": -1.0}, "start is -1.0, expected a number of seconds >= 0."),
        ({"start": float("nan")}, "start is nan, expected a number of seconds >= 0."),
        ({"start": 0.5, "end": 0.5}, "end is 0.5, expected a number of seconds > start (0.5)."),
        ({"end": float("inf")}, "end is inf, expected a number of seconds > start (0.0)."),
        (
            {"sample_rate": 0},
            "sample_rate is 0, expected a rate in [1000, 768000] Hz.",
        ),
    ],
)
def test_refuses_settings(wav: Path, settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        audio.read(wav, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_sound_reads_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    audio.write(path, tone(RATE), RATE, subtype="PCM_24")
    np.testing.assert_allclose(audio.read(path), tone(RATE), rtol=0, atol=2**-23)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_integers_clip_nothing_and_floats_hold_more(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    sentence = (
        "would be clipped: its loudest sample is 2 and full scale is 1; scale it down, or write a "
        "WAV of subtype FLOAT."
    )
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "ULAW"):
        with pytest.raises(AudioError, match=refusal(path, sentence)):
            audio.write(path, np.array([2.0, -2.0, 0.5]), RATE, subtype=subtype)
    audio.write(path, np.array([2.0, -2.0, 0.5]), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(path), [2.0, -2.0, 0.5])
    audio.write(path, np.array([1.0 + 2.0**-16, -1.0, 1.0]), RATE)  # rounding never wraps
    np.testing.assert_allclose(audio.read(path), [1.0, -1.0, 1.0], atol=2**-15)


@pytest.mark.parametrize(
    ("name", "samples", "subtype", "sentence"),
    [
        ("a.wav", [0.0, np.nan], "PCM_16", "refuses to write NaN or infinite samples."),
        ("a.wav", [], "PCM_16", "cannot write samples of shape (0,), expected (T,)."),
        ("a.wav", [[0.0], [0.0]], "PCM_16", "cannot write samples of shape (2, 1), expected (T,)."),
        ("a.mp3", [0.0], "PCM_16", "cannot write .mp3, use .wav or .flac."),
        ("a", [0.0], "PCM_16", "cannot write no suffix, use .wav or .flac."),
        ("a.flac", [0.0], "FLOAT", "FLAC cannot hold 'FLOAT' samples."),
        ("no/a.wav", [0.0], "PCM_16", "its folder does not exist, create it first."),
    ],
)
def test_refuses_to_write(
    tmp_path: Path, name: str, samples: list[float], subtype: str, sentence: str
) -> None:
    path = tmp_path / name
    with pytest.raises(AudioError, match=refusal(path, sentence)):
        audio.write(path, samples, RATE, subtype=subtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["kept.wav", "kept.flac"])
def test_a_failed_write_keeps_the_old_file_and_says_what_the_system_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    audio.write(path, tone(RATE), RATE)
    before = path.read_bytes()
    noise = 0.1 * np.random.default_rng(0).normal(size=100 * RATE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    sentence = "cannot be written (File too large); free some space and run it again"
    try:
        with pytest.raises(AudioError, match=f"^{re.escape(f'{path}: {sentence}')}"):
            audio.write(path, noise, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert capfd.readouterr().err == ""


class Failing(io.BytesIO):
    """A file on a disk that fails behind its first half."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > len(self.getvalue()) // 2:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_disk_that_fails_is_told_as_such(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    soundfile.write(tmp_path / name, 0.1 * np.random.default_rng(0).normal(size=RATE), RATE)
    file = Failing((tmp_path / name).read_bytes())
    with (
        pytest.raises(AudioError, match=rf"^{name}: cannot be read \(Input/output error\)\.$"),
        audio.open_sound(file, name) as sound,
    ):
        list(audio.blocks(sound, name, first=0, last=sound.frames, size=RATE))
    assert capfd.readouterr().err == ""


def test_a_link_to_nothing_says_where_it_leads(tmp_path: Path) -> None:
    path = tmp_path / "annexed.wav"
    path.symlink_to(tmp_path / "objects" / "SHA256E-1.wav")
    sentence = f"is a link to {tmp_path}/objects/SHA256E-1.wav, which is not there; fetch what"
    with pytest.raises(AudioError, match=f"^{re.escape(f'{path}: {sentence}')}"):
        audio.read(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(AudioError, match="is a link to"):
        audio.read(path)


def test_fingerprint_is_that_of_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = np.array([0.5, -0.25, -0.0], dtype=np.float32)
    soundfile.write(path, samples, 8_000, subtype="FLOAT")
    told = struct.pack("<3f", 0.5, -0.25, 0.0)
    assert audio.inspect(path).fingerprint == hashlib.sha256(b"8000 1 " + told).hexdigest()


def test_fingerprint_does_not_depend_on_the_container(tmp_path: Path) -> None:
    found = set()
    for suffix, container, subtype, _ in LOSSLESS:
        if subtype == "PCM_U8":
            continue
        path = tmp_path / f"{subtype}{suffix}"
        samples = np.round(tone(RATE) * 2**15) / 2**15  # what 16 bits hold exactly
        soundfile.write(path, samples, RATE, format=container, subtype=subtype)
        found.add(audio.inspect(path).fingerprint)
    assert len(found) == 1


def test_fingerprint_tells_rate_stretch_and_a_single_bit(tmp_path: Path) -> None:
    samples = tone(RATE)
    other = samples.copy()
    other[-1] += 2**-14
    for name, data, rate in (("a", samples, RATE), ("b", other, RATE), ("c", samples, 8_000)):
        soundfile.write(tmp_path / f"{name}.wav", data, rate)
    whole = {audio.inspect(tmp_path / f"{name}.wav").fingerprint for name in "abc"}
    part = audio.inspect(tmp_path / "a.wav", start=0.5).fingerprint
    assert len(whole | {part}) == 4


def test_inspect_says_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(8_000), np.zeros(8_000)], axis=1), 8_000, subtype="FLOAT")
    sound = audio.inspect(path)
    assert (sound.seconds, sound.sample_rate, sound.channels) == (1.0, 8_000, 2)
    assert sound.peak == pytest.approx(0.5, abs=1e-3)


def test_duration_seconds(wav: Path) -> None:
    assert audio.duration_seconds(wav) == 1.0
