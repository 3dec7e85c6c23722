"""``servax calibrate`` from sound files to table, curves and picture, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from servax import audio
from servax.cli import main
from servax.corpora import cache_folder, load
from servax.experiments.training import fold_parts
from servax.features import FrontEnd, FrontEndSettings, ScaleKind, extract
from servax.models import VGG16, save_network
from servax.training import global_seed

LABELS = ("angry", "sad")
FRONT_END = FrontEndSettings(frames=40)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three speakers, each with two utterances of two labels, and each louder."""
    folder = tmp_path_factory.mktemp("calibrated")
    draws = np.random.default_rng(1)
    lines = ["path,label,speaker"]
    for speaker in range(3):
        for i in range(4):
            tone = np.sin(2 * np.pi * 200 * (1 + i + 4 * speaker) * np.arange(9600) / 16_000)
            sound = tone * 0.2 + draws.normal(0, 0.01, 9600)
            audio.write(folder / f"s{speaker}-{i}.wav", sound, 16_000)
            lines.append(f"s{speaker}-{i}.wav,{LABELS[i % 2]},s{speaker}")
    (folder / "own.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "own.csv"


def untrained(manifest: Path, folder: Path, *, scale: ScaleKind = "window", group: int = 0) -> Path:
    corpus = load(manifest)
    features = extract(corpus, FrontEnd(FRONT_END), folder=cache_folder() / "features")
    parts = fold_parts(corpus.folds(3)[group], features, FRONT_END, scale=scale)
    with global_seed(0, "weights"):
        network = VGG16(2, 1)
    extra = {
        "role": "recogniser",
        "labels": list(LABELS),
        "scale": asdict(parts.scale.settings),
        "front_end": asdict(FRONT_END),
    }
    save_network(network, folder, extra=extra)
    return folder


def command(manifest: Path, model: Path, out: Path, *more: str) -> list[str]:
    return [
        *("calibrate", str(manifest), str(model), "--scheme", "native", "--groups", "3"),
        *("--step-sizes", "[.003,.005]", "--radii", "[.02,.03]", "--steps", "4"),
        *("--device", "cpu", "--out", str(out), *more),
    ]


@pytest.mark.parametrize("scale", ["window", "z-score"])
def test_it_leaves_curves_table_and_picture(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: ScaleKind
) -> None:
    model = untrained(manifest, tmp_path / "model", scale=scale)
    assert main(command(manifest, model, tmp_path / "out", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    out = tmp_path / "out"
    assert shown == json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    assert (out / "risks.png").read_bytes()[:4] == b"\x89PNG"
    frame = pd.read_csv(out / "risks.csv")
    assert frame.columns.tolist() == ["step", "radius", "k", "right", "lost", "risk"]
    assert len(frame) == 2 * 2 * 4
    assert [(p["step"], p["radius"]) for p in shown["pairs"]] == [
        *((0.003, 0.02), (0.003, 0.03), (0.005, 0.02), (0.005, 0.03))
    ]
    assert sum(p["chosen"] for p in shown["pairs"]) == 1
    assert (shown["utterances"], shown["right"]) == (4, 2)  # it says one thing always
    first = shown["pairs"][0]
    if scale == "window":
        assert first["radius_db"] == pytest.approx(1.6)
    else:
        assert first["radius_sd"] == pytest.approx(0.02 * 6.67, rel=1e-4)


def test_the_spread_of_the_training_speakers_gives_standard_deviations(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained(manifest, tmp_path / "model")
    assert main(command(manifest, model, tmp_path / "out", "--json")) == 0
    first = json.loads(capsys.readouterr().out)["pairs"][0]
    corpus = load(manifest)
    features = extract(corpus, FrontEnd(FRONT_END), folder=cache_folder() / "features")
    rows = features.rows(corpus.folds(3)[0].train)
    spread = features.logmel_db[rows].astype(np.float64).std(axis=(0, 2)).mean()
    assert first["radius_sd"] == pytest.approx(1.6 / spread, rel=1e-4)


def test_the_table_names_the_pair(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = untrained(manifest, tmp_path / "model")
    assert main(command(manifest, model, tmp_path / "out", "--utterances", "2")) == 0
    shown = capsys.readouterr()
    assert "of 2: " in shown.out
    assert shown.out.count("chosen") == 1
    assert "mean R is nearest to .89" in " ".join(shown.err.split())


def test_a_model_of_other_labels_or_another_fold_is_refused(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = untrained(manifest, tmp_path / "model", group=1)
    assert main(command(manifest, model, tmp_path / "out")) == 2
    sentence = "its scale is another, try another --groups or --held-out."
    assert sentence in capsys.readouterr().err
    assert main(command(manifest, model, tmp_path / "out", "--held-out", "4")) == 2
    assert "held_out is 4, expected a group from 1 to 3." in capsys.readouterr().err
    synthetic = [str(manifest.parent / "other.csv"), str(model)]
    table = manifest.read_text(encoding="utf-8").replace("sad", "happy")
    Path(synthetic[0]).write_text(table, encoding="utf-8")
    assert main(command(Path(synthetic[0]), model, tmp_path / "out")) == 2
    expected = "one with the labels of the corpus (angry, happy); this one tells apart angry, sad"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
