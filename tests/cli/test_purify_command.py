"""``servax purify``: what is written, and from and to pipes."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from servax import __version__, pretrained
from servax.cli import main

PURIFIER = str(pretrained.folder("ssad-plus-ravdess") / "purifier.onnx")


def sound(place: Path | io.BytesIO, subtype: str = "PCM_16", form: str = "WAV") -> np.ndarray:
    samples = 0.1 * np.random.default_rng(0).normal(size=16_000)
    soundfile.write(place, samples, 16_000, subtype, format=form)
    return samples


@pytest.mark.parametrize(
    ("source", "target", "options", "written"),
    [
        ("PCM_16", "a.wav", (), "PCM_16"),
        ("PCM_24", "a.wav", (), "PCM_24"),
        ("PCM_24", "a.flac", (), "PCM_24"),
        ("PCM_32", "a.wav", (), "PCM_24"),
        ("FLOAT", "a.wav", (), "FLOAT"),
        ("FLOAT", "a.flac", (), "PCM_24"),
        ("ULAW", "a.wav", (), "PCM_16"),
        ("ALAC_16", "a.wav", (), "PCM_16"),
        ("ALAC_20", "a.wav", (), "PCM_24"),
        ("ALAC_24", "a.wav", (), "PCM_24"),
        ("ALAC_32", "a.flac", (), "PCM_24"),
        ("PCM_16", "a.wav", ("--format", "float"), "FLOAT"),
        ("FLOAT", "a.wav", ("--format", "16"), "PCM_16"),
    ],
)
def test_samples_are_written_as_they_came_or_as_is_asked_for(
    source: str, target: str, options: tuple[str, ...], written: str, tmp_path: Path
) -> None:
    form = "CAF" if source.startswith("ALAC") else "WAV"
    file = tmp_path / f"in.{form.lower()}"
    sound(file, source, form)
    given = [str(file), "-o", str(tmp_path / target), "--purifier", PURIFIER]
    assert main(["purify", *given, *options]) == 0
    assert soundfile.info(tmp_path / target).subtype == written


def test_nothing_is_let_through(tmp_path: Path) -> None:
    samples = sound(tmp_path / "in.wav", "FLOAT")
    given = [str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--purifier", PURIFIER]
    assert main(["purify", *given, "--mix", "0", "--quiet"]) == 0
    made, _ = soundfile.read(tmp_path / "out.wav")
    np.testing.assert_allclose(made, samples, atol=1e-6)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_full_scale_comes_back_bit_by_bit(subtype: str, bits: int, tmp_path: Path) -> None:
    most = 2 ** (bits - 1)
    steps = np.random.default_rng(0).integers(-most, most, 16_000)
    steps[:4] = [most - 1, -most, most - 2, most - 1]
    stored = (steps << (32 - bits)).astype(np.int32)
    soundfile.write(tmp_path / "in.wav", stored, 16_000, subtype)
    given = [str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--purifier", PURIFIER]
    assert main(["purify", *given, "--mix", "0", "--device", "auto", "--quiet"]) == 0
    made, _ = soundfile.read(tmp_path / "out.wav", dtype="int32")
    np.testing.assert_array_equal(made, stored)


def test_a_gpu_is_refused_where_an_onnx_file_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound(tmp_path / "in.wav")
    given = [str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--purifier", PURIFIER]
    assert main(["purify", *given, "--device", "cuda"]) == 2
    assert "device is 'cuda', expected cpu or auto" in capsys.readouterr().err


class Piped:
    """A process between two pipes."""

    def __init__(self, given: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out = io.BytesIO()
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=self.out, isatty=lambda: False))


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_24"), ("OGG", "VORBIS")])
def test_sound_goes_through_pipes(
    form: str, subtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.BytesIO()
    sound(file, subtype, form)
    pipe = Piped(file.getvalue(), monkeypatch)
    assert main(["purify", "-", "-o", "-", "--purifier", PURIFIER, "--quiet"]) == 0
    made = soundfile.info(io.BytesIO(pipe.out.getvalue()))
    assert (made.frames, made.samplerate, made.format) == (16_000, 16_000, "WAV")
    assert capsys.readouterr().err == ""


def test_what_is_wrong_with_a_pipe_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pipe = Piped(b"RIFF no sound", monkeypatch)
    assert main(["purify", "-", "-o", "-", "--purifier", PURIFIER, "--quiet"]) == 1
    assert capsys.readouterr().err.startswith("failed: stdin: ")
    assert not pipe.out.getvalue()
    refused = "servax: out is '-', expected"
    for name in (tmp_path, "words.csv", "words.parquet"):
        assert main(["purify", str(name), "-o", "-"]) == 2
        told = capsys.readouterr().err.strip()
        assert told == f"{refused} a folder for {name}: stdout holds one sound."
    assert main(["purify", "x.npy", "-o", "-"]) == 2
    told = capsys.readouterr().err.strip()
    assert told == f"{refused} a .npy file for x.npy: stdout holds a WAV."


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"servax {__version__}"
