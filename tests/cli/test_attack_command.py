"""``servax attack`` as a user meets it: on the log-Mel, and on the waveform."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from servax import audio
from servax.cli import main
from servax.models import VGG16
from servax.models.storage import save_network
from servax.perturbation import PsychoacousticMask

RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "recogniser"
    extra = {
        "role": "recogniser",
        "labels": ["angry", "happy", "neutral", "sad"],
        "front_end": {"frames": 40},
        "scale": {"top_db": 40.0, "window_db": 80.0},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_network(VGG16(width=2), folder, extra=extra)
    return folder


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for name in "ab":
        audio.write(folder / f"{name}.wav", draws.normal(0, 0.05, RATE // 2), RATE)
    (folder / "broken.wav").write_bytes(b"no sound")
    return folder


def sentences(told: dict[str, Any]) -> list[str]:
    return [each["sentence"] for each in told["files"] if each["status"] == "failed"]


def test_on_the_waveform_it_writes_16_bit_files_inside_the_ratio(
    model: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--on", "waveform", "--snr", "30", "--steps", "2", "-o", str(out), "--json"]
    assert main(["attack", str(sounds), str(model), "angry", *options]) == 1  # one is broken
    told = json.loads(capsys.readouterr().out)
    assert [row["sound"] for row in told["attacked"]] == ["a.wav", "b.wav"]
    assert told["failed"] == 1
    assert ["broken.wav" in each for each in sentences(told)] == [True]
    for row in told["attacked"]:
        assert soundfile.info(out / row["sound"]).subtype == "PCM_16"
        clean, moved = (audio.read(f / row["sound"]).astype(float) for f in (sounds, out))
        ratio = 10 * math.log10(np.sum(clean**2) / np.sum((moved - clean) ** 2))
        assert row["SNR dB"] == pytest.approx(ratio, abs=0.051)
        assert ratio >= 30.0 - 1e-4
        largest = 20 * math.log10(np.abs(moved - clean).max())
        assert row["largest change dBFS"] == pytest.approx(largest, abs=0.051)


def test_what_is_beyond_full_scale_is_refused_and_never_cut(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = np.random.default_rng(0)
    folder, out = tmp_path / "sounds", tmp_path / "out"
    folder.mkdir()
    for name, peak in (("integers", 32_767.0), ("master", 1.5)):
        noise = peak * np.clip(draws.normal(0, 0.4, RATE // 2), -1, 1)
        soundfile.write(folder / f"{name}.wav", noise, RATE, "FLOAT")
    square = np.sign(np.sin(2 * np.pi * 300 * np.arange(22_050) / 44_100))
    soundfile.write(folder / "square.wav", square, 44_100)  # resampled, it overshoots
    assert np.abs(audio.read(folder / "square.wav", sample_rate=RATE)).max() > 1.05
    options = ["--on", "waveform", "--steps", "2", "-o", str(out), "--json"]
    assert main(["attack", str(folder), str(model), "angry", *options]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["sound"] for row in told["attacked"]] == ["square.wav"]
    for name, peak in (("integers", "32767"), ("master", "1.5")):
        sentence = (
            f"{folder / name}.wav: has its loudest sample at {peak}, expected at most 1, which is "
            "full scale: scale it down (divide by 32768 where integers of 16 bits were stored as "
            "floats)."
        )
        assert sentence in sentences(told)
    assert [path.name for path in out.iterdir()] == ["square.wav"]
    attacked = audio.read(out / "square.wav")
    assert np.mean(np.abs(attacked) > 0.999) < 0.01
    # A log-Mel has no full scale: its front-end brings all to one level.
    assert main(["attack", str(folder / "master.wav"), str(model), "angry", "-o", str(out)]) == 0


def test_on_the_waveform_fgsm_uses_up_epsilon_in_one_step(
    model: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--on", "waveform", "--method", "fgsm", "--epsilon", "0.001", "-o", str(out)]
    assert main(["attack", str(sounds / "a.wav"), str(model), "sad", *options]) == 0
    assert "fgsm of the waveform on the bare model" in capsys.readouterr().out
    change = np.abs(audio.read(out / "a.wav") - audio.read(sounds / "a.wav")) * 32768
    assert change.max() == 32  # 32.8 steps of 16 bits
    assert np.mean(change == 32) > 0.9


def test_masking_hides_the_change_below_the_sound(model: Path, tmp_path: Path) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)
    audio.write(tmp_path / "a.wav", tone, RATE)
    shares = []
    for name, more in (("loud", []), ("hidden", ["--masking"])):
        budget = ["--on", "waveform", "--snr", "20", "--steps", "3", *more]
        out = str(tmp_path / name)
        assert main(["attack", str(tmp_path / "a.wav"), str(model), "sad", "-o", out, *budget]) == 0
        clean, moved = (
            torch.from_numpy(audio.read(f / "a.wav"))[None] for f in (tmp_path, tmp_path / name)
        )
        shares.append(float(PsychoacousticMask(sample_rate=RATE).share_above(clean, moved)))
    assert shares[1] < 0.5 * shares[0]


def test_on_the_log_mel_it_writes_arrays(
    model: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--steps", "2", "-o", str(out), "--json"]
    assert main(["attack", str(sounds / "a.wav"), str(model), "angry", *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)["attacked"]
    assert np.load(out / "a.wav.npy").shape == (64, 40)
    assert row["largest change dB"] == pytest.approx(0.48, abs=0.01)
    assert row["log-Mel SNR dB"] > 30


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--snr", "30"], "snr is 30.0, expected none: it is a budget of --on waveform."),
        (["--masking"], "masking is True, expected false: it belongs to --on waveform."),
        (["--on", "waveform", "--epsilon", "1e-5"], "epsilon is 1e-05, expected a finite number"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(
    model: Path,
    sounds: Path,
    tmp_path: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["attack", str(sounds), str(model), "angry", "-o", str(out), *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("on", ["waveform", "logmel"])
def test_a_folder_loses_no_sound_and_never_attacks_what_it_wrote(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], on: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.05, RATE // 4)
    for name in ("a.wav", "a.flac", "a.ogg"):
        soundfile.write(source / name, noise, RATE)
    (source / "a.m4a").write_bytes(b"ftyp")
    (source / "bad.wav").write_bytes(b"no sound")
    before = {path: path.read_bytes() for path in source.iterdir()}
    out = source / "out"
    options = ["--on", on, "--method", "fgsm", "-o", str(out), "--json"]
    command = ["attack", str(source), str(model), "sad", *options]
    names = {
        "waveform": ["a.flac.wav", "a.ogg.wav", "a.wav"],
        "logmel": ["a.flac.npy", "a.ogg.npy", "a.wav.npy"],
    }[on]
    told = []
    for more in ([], [], ["--overwrite"]):
        assert main([*command, *more]) == 1
        told.append(json.loads(capsys.readouterr().out))
        assert sorted(path.name for path in out.iterdir()) == names
    assert [(each["done"], each["skipped"], each["not_sound"]) for each in told] == [
        *((3, 0, 1), (0, 3, 1), (3, 0, 1))
    ]
    assert [each["failed"] for each in told] == [1, 1, 1]
    assert {each["source"] for each in told[0]["files"]} == {str(path) for path in before}
    assert {path: path.read_bytes() for path in before} == before


def test_one_sound_is_never_its_own_target_and_what_is_there_is_refused(
    model: Path,
    sounds: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(sounds)
    before = Path("a.wav").read_bytes()
    command = ["attack", "a.wav", str(model), "sad", "--on", "waveform", "--steps", "1"]
    for more in ([], ["--overwrite"]):
        assert main([*command, "-o", ".", *more]) == 2
        assert "a.wav: is the sound itself; give another place" in capsys.readouterr().err
    assert main([*command, "-o", "out"]) == 0
    capsys.readouterr()
    assert main([*command, "-o", "out"]) == 2
    assert "out/a.wav: is there already; add --overwrite" in capsys.readouterr().err
    assert main([*command, "-o", "out", "--overwrite"]) == 0
    assert main([*command, "-o", "b.wav"]) == 2
    assert "b.wav: is a file, expected a folder" in capsys.readouterr().err
    assert Path("a.wav").read_bytes() == before


def test_a_name_is_shown_as_it_is(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.05, RATE // 4)
    for name in ("[b] [/x] :smile:.wav", "long/" + "x" * 250 + ".wav"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        audio.write(tmp_path / "in" / name, noise, RATE)
    command = ["attack", str(tmp_path / "in"), str(model), "sad", "--method", "fgsm"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "[b] [/x] :smile:.wav" in said.out
    assert "x.wav.npy: cannot be written (File name too long)." in said.err
    assert main([*command, "-o", "/proc/servax"]) == 1
    assert ": cannot be written (" in capsys.readouterr().err
    assert main(["purify", "y" * 300 + ".wav", "-o", "o.wav"]) == 1
    assert "File name too long" in capsys.readouterr().err


def test_json_holds_no_infinity(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio.write(tmp_path / "silence.wav", np.zeros(RATE // 4), RATE)
    options = ["--on", "waveform", "--snr", "30", "--steps", "1", "--json"]
    command = ["attack", str(tmp_path / "silence.wav"), str(model), "sad", *options]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    (row,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["attacked"]
    assert row["largest change dBFS"] is None
