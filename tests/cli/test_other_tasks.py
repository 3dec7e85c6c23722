"""Speaker and gender recognition through the ordinary commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.cli import main
from servax.evaluation import records
from servax.recognition import Recogniser

RATE = 16_000
SPEAKERS = {"ann": "female", "bob": "male", "cat": "female", "dan": "male"}
RECIPE = """
name: who
corpus: {{name: {manifest}, scheme: speaker}}
groups: text
held_out: [2]
width: 1
front_end: {{frames: 40}}
recogniser: {{epochs: 1, batch_size: 4}}
discriminator: {{channels: [2, 4], hidden: [8]}}
purifiers:
  ssad: {{epochs: 1, batch_size: 4, warmup_steps: 2, ssa: {{steps: 1}}}}
controls: {{quantise_bits: [4]}}
attacks: {{epsilons: [0.01], step: 0.01, radius: 0.02, steps: 1, adaptive_steps: 1}}
compute: {{device: cpu}}
"""


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVAX_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(4)
    lines = ["path,label,speaker,gender,text"]
    for speaker, gender in SPEAKERS.items():
        for text in ("kids", "dogs"):
            for take in range(4):
                path = f"{speaker}-{text}-{take}.wav"
                audio.write(tmp_path / path, draws.normal(0, 0.1, RATE // 2), RATE)
                lines.append(f"{path},{('calm', 'sad')[take % 2]},{speaker},{gender},{text}")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def train(manifest: Path, out: Path, *options: str) -> int:
    common = ["--width", "1", "--epochs", "1", "--device", "cpu"]
    return main(["train", "recogniser", str(manifest), *common, "-o", str(out), *options])


def test_who_speaks_is_trained_with_its_purifier(manifest: Path, tmp_path: Path) -> None:
    task = ["--scheme", "speaker", "--groups", "text", "--held-out", "2"]
    out = tmp_path / "who"
    assert train(manifest, out, *task) == 0
    assert Recogniser.from_pretrained(out / "model").labels == tuple(SPEAKERS)
    common = ["--epochs", "1", "--ssa-steps", "1", "--device", "cpu"]
    purify = ["train", "purifier", str(manifest), str(out / "model"), *task, *common]
    assert main([*purify, "-o", str(tmp_path / "purifier")]) == 0
    assert (tmp_path / "purifier" / "model").is_dir()


def test_another_label_is_another_training(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both train on the same utterances: the labels alone tell the checkpoints apart."""
    out = tmp_path / "out"
    assert train(manifest, out, "--scheme", "gender", "--groups", "4") == 0
    assert Recogniser.from_pretrained(out / "model").labels == ("female", "male")
    capsys.readouterr()
    assert train(manifest, out, "--scheme", "native", "--groups", "4") == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scheme", "speaker"], "groups is 6, expected 'text' or 'official' with scheme"),
        (["--scheme", "native", "--groups", "texts"], "groups is 'texts', expected one of "),
    ],
)
def test_refusals(
    manifest: Path,
    tmp_path: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(manifest, tmp_path / "out", *options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folds_are_shown_and_stored(manifest: Path, tmp_path: Path) -> None:
    folds = tmp_path / "folds"
    options = ["--groups", "text", "--scheme", "speaker", "--out", str(folds)]
    assert main(["corpus", "folds", str(manifest), *options]) == 0
    told = json.loads((folds / "fold-2.json").read_text(encoding="utf-8"))
    assert told["apart"] == "text"
    assert {name.split("-")[1] for name in told["test"]} == {"kids"}
    assert {name.split("-")[1] for name in told["train"] + told["validation"]} == {"dogs"}


def test_a_recipe_runs_it(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "who.yaml"
    recipe.write_text(RECIPE.format(manifest=manifest), encoding="utf-8")
    assert main(["run", str(recipe)]) == 0
    (file,) = (tmp_path / "runs" / "who" / "records").glob("*.parquet")
    found = records.read(file)
    assert set(found.frame["label"]) == set(SPEAKERS)
    assert (found.frame["label"] == found.frame["speaker"]).all()
    assert {name.split("-")[1] for name in found.frame["utterance"]} == {"kids"}
    assert found.provenance["scheme"] == "speaker"
