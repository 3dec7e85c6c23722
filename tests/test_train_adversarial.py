"""``servax train adversarial`` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.cli import main
from servax.cli.train import TrainAdversarial
from servax.defences import MadryPGD, Trades, Vanilla
from servax.recognition import Recogniser
from servax.training import read_log

RATE = 16_000


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    draws = np.random.default_rng(4)
    lines = ["path,label,speaker"]
    for speaker in "abc":
        for name in ("angry", "happy", "neutral", "sad"):
            audio.write(tmp_path / f"{speaker}-{name}.wav", draws.normal(0, 0.1, RATE // 2), RATE)
            lines.append(f"{speaker}-{name}.wav,{name},{speaker}")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def command(manifest: Path, *options: str) -> list[str]:
    common = ["--groups", "3", "--width", "1", "--schedule", "short", "--device", "cpu"]
    out = str(manifest.parent / "out")
    return ["train", "adversarial", str(manifest), *common, "-o", out, *options]


def test_models_are_trained_resumed_and_share_their_start(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = manifest.parent / "out"
    first = command(manifest, "--iterations", "4", "--objective", "vanilla", "--epsilon", "0.02")
    assert main(first) == 0
    folder = out / "adversarial-vanilla-0.02"
    told = capsys.readouterr().err.strip().splitlines()[-1]
    log = read_log(folder / "log.jsonl")
    uar = log[-1]["validation/uar"]
    assert told == f"validation UAR {uar:.3f} after 4 iterations: {folder / 'model'}"
    assert [line["train/iteration"] for line in log] == [3, 4]  # one batch is an epoch here
    assert Recogniser.from_pretrained(folder / "model").labels == (
        "angry",
        "happy",
        "neutral",
        "sad",
    )

    weights = (folder / "model" / "weights.safetensors").read_bytes()
    start = (out / "start" / "log.jsonl").read_bytes()
    assert main(first) == 0  # everything is there
    assert (folder / "model" / "weights.safetensors").read_bytes() == weights
    assert read_log(folder / "log.jsonl") == log
    second = command(manifest, "--iterations", "4", "--objective", "trades", "--steps", "1")
    assert main(second) == 0
    assert read_log(out / "start" / "log.jsonl")[-1]["train/iteration"] == 2
    assert (out / "start" / "log.jsonl").read_bytes() == start
    assert Recogniser.from_pretrained(out / "trades" / "model").network.settings.width == 1

    assert main(command(manifest, "--iterations", "5", "--objective", "trades")) == 2
    assert "belongs to a run with other settings" in capsys.readouterr().err


REFUSALS = [
    (
        ["--objective", "pgd-at", "--epsilon", "0.01"],
        "epsilon is 0.01, expected none with pgd-at, whose reach is given as --radius.",
    ),
    (
        ["--objective", "vanilla", "--radius", "0.01"],
        "radius is 0.01, expected none with vanilla, which takes one step of --epsilon; use pgd-at "
        "or trades.",
    ),
    (["--epsilon", "-1"], "epsilon is -1.0, expected a number in (0, 1], on the [0, 1] scale."),
    (["--iterations", "0"], "iterations is 0, expected a whole number of at least 1."),
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
    assert main(["train", "adversarial", "nowhere.csv", *options]) == 2
    assert capsys.readouterr().err.strip() == f"servax: {sentence}"
    assert list(tmp_path.iterdir()) == []


def test_one_model_for_each_size_of_the_paper() -> None:
    names = [o.name for o in TrainAdversarial("c").objectives]
    assert names == [f"adversarial-similarity-0.0{e}" for e in ("03", "06", "09", "12", "15")]
    single = TrainAdversarial("c", objective="vanilla", epsilon=0.02)
    assert single.objectives == [Vanilla(0.02)]
    walk = TrainAdversarial("c", objective="pgd-at", step=0.01, radius=0.03, steps=2)
    assert walk.objectives == [MadryPGD(0.01, 0.03, 2)]
    assert TrainAdversarial("c", objective="trades").objectives == [Trades()]


def test_the_plain_part_keeps_its_share() -> None:
    assert TrainAdversarial("c").training.iterations == 10_000
    tenth = TrainAdversarial("c", iterations=1_000).training
    assert (tenth.iterations, tenth.plain_iterations) == (1_000, 100)
    assert TrainAdversarial("c", schedule="short", iterations=14).training.plain_iterations == 10
    assert TrainAdversarial("c", schedule="short", iterations=1).training.plain_iterations == 0
