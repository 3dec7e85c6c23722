"""``servax train denoiser`` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.cli import main
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.training import read_log

RATE = 16_000


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVAX_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(4)
    lines = ["path,label,speaker"]
    for speaker in "abc":
        for name in ("angry", "happy", "neutral", "sad"):
            audio.write(tmp_path / f"{speaker}-{name}.wav", draws.normal(0, 0.1, RATE // 4), RATE)
            lines.append(f"{speaker}-{name}.wav,{name},{speaker}")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def train(manifest: Path, *options: str, kind: str = "denoiser") -> int:
    common = ["--groups", "3", "--epochs", "1", "--device", "cpu"]
    out = str(manifest.parent / kind)
    return main(["train", kind, str(manifest), *common, "-o", out, *options])


def test_a_denoiser_is_trained_kept_and_taken_as_a_purifier(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = manifest.parent / "denoiser"
    assert train(manifest, "--noise", "0.1") == 0
    loss = read_log(out / "log.jsonl")[0]["validation/loss"]
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told == f"validation loss {loss:.5f} in epoch 1: {out / 'model'}"
    weights = (out / "model" / "weights.safetensors").read_bytes()
    assert train(manifest, "--noise", "0.1") == 0  # it is there
    assert (out / "model" / "weights.safetensors").read_bytes() == weights
    assert len(read_log(out / "log.jsonl")) == 1

    assert train(manifest, "--width", "1", kind="recogniser") == 0
    recogniser = Recogniser.from_pretrained(manifest.parent / "recogniser" / "model")
    denoiser = Purifier.from_pretrained(out / "model")
    # One fold, so one scale and front-end: an audit asks for both.
    assert denoiser.scale.settings == recogniser.scale.settings
    assert denoiser.front_end == recogniser.front_end

    sound, clean = manifest.parent / "a-angry.wav", manifest.parent / "clean.wav"
    assert main(["purify", str(sound), "-o", str(clean), "--purifier", str(out / "model")]) == 0
    assert len(audio.read(clean, sample_rate=RATE)) == RATE // 4

    capsys.readouterr()
    assert train(manifest, "--noise", "0.2") == 2
    assert "belongs to a run with other settings" in capsys.readouterr().err


def test_the_residual_preset_predicts_a_change(manifest: Path) -> None:
    assert train(manifest, "--preset", "ssad-residual") == 0
    told = (manifest.parent / "denoiser" / "model" / "settings.json").read_text(encoding="utf-8")
    assert '"residual": true' in told


REFUSALS = [
    (["--noise", "0"], "noise is 0.0, expected a number in (0, 1], on the [0, 1] scale."),
    (["--epochs", "0"], "epochs is 0, expected a whole number of at least 1."),
    (
        ["--preset", "best"],
        "purifier preset is 'best', expected one of ssad, ssad-plus, ssad-residual.",
    ),
    (["--device", "tpu"], "device is 'tpu', expected auto, cpu, cuda or cuda:N."),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSALS)
def test_refusals_come_before_any_work(
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "denoiser", "nowhere.csv", *options]) == 2
    assert capsys.readouterr().err.strip() == f"servax: {sentence}"
    assert list(tmp_path.iterdir()) == []
