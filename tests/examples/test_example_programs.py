"""Each example is short, and does what it says, on tiny settings."""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import servax as sx
from servax.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 70


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder from which the examples can be imported, as from their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    draws = np.random.default_rng(0)
    for speaker in ("anna", "ben", "cem"):
        for label in ("angry", "sad"):
            file = tmp_path / "recordings" / speaker / f"{label}_01.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, draws.normal(0, 0.05, 16_000), 16_000)
    return tmp_path


def run(name: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def command_of(name: str) -> list[str]:
    """Return the audit that the docstring of an example shows."""
    text = (ROOT / "examples" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.strip().startswith("servax audit")]
    return [*shlex.split(line, comments=True)[1:], "--utterances", "2", "--sounds", "0"]


def test_a_corpus_is_added(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add_corpus.py", "recordings", "-o", "mine.csv")
    told = capsys.readouterr().out
    assert "6 utterances, 3 speakers, angry, sad" in told
    assert "tests anna; trains on 2 utterances" in told
    assert main(["corpus", "verify", "mine.csv"]) == 0
    assert main(["corpus", "folds", "mine.csv", "--groups", "3"]) == 0


def test_an_own_model_is_audited(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("audit_own_model.py", "--utterances", "2", "--out", "audit")
    told = capsys.readouterr().out
    assert "audit/report/report.html" in told
    frame = pd.read_parquet(place / "audit" / "records" / "audit.parquet")
    assert set(frame["knowledge"]) == {"none", "black_box", "adaptive"}
    assert main([*command_of("audit_own_model.py"), "--dry-run"]) == 0


def test_an_attack_is_added(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add_attack.py", "recordings/anna/angry_01.wav", "angry", "--model", "crnn-synthetic")
    assert "attacked: " in capsys.readouterr().out
    assert main([*command_of("add_attack.py"), "--dry-run"]) == 0
    assert "adaptive corner on undefended" in capsys.readouterr().out


def test_a_defence_is_added(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add_defence.py", "--utterances", "4", "--steps", "2")
    lines = capsys.readouterr().out.splitlines()
    ways = ["no attack", "oblivious", "adaptive", "bpda"]
    assert [line.partition(":")[0] for line in lines] == ways
    assert main([*command_of("add_defence.py"), "--dry-run"]) == 0
    assert "bpda pgd on floor" in capsys.readouterr().out


def test_both_join_one_audit(place: Path) -> None:
    both = [*command_of("add_attack.py"), *command_of("add_defence.py")[2:]]
    assert main([*both, "--knowledge", "adaptive,bpda", "--out", "audit"]) == 0
    frame = pd.read_parquet("audit/records/audit.parquet")
    assert set(frame["defence"]) == {"undefended", "floor"}
    assert "bpda" in set(frame["knowledge"])
    own = frame[frame["attack"] == "corner"]
    assert set(own["knowledge"]) == {"adaptive"}
    assert set(own["strength"]) == {0.02}
    assert len(own) == 2 * 2  # utterances and systems
    report = Path("audit/report/report.md").read_text(encoding="utf-8")
    assert "corner" in report
    assert "BestCorner" in report


def test_a_hugging_face_model_is_defended(
    place: Path, tiny_wav2vec2: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny random wav2vec 2.0: the pipeline runs, and hears another sound."""
    tiny_wav2vec2(place / "tiny")
    capsys.readouterr()
    run(
        "defend_hugging_face.py",
        "tiny",
        "recordings/anna/angry_01.wav",
        "--purifier",
        "ssad-plus-synthetic",
    )
    bare, behind = capsys.readouterr().out.splitlines()[-2:]
    assert bare.startswith("bare: ")
    assert behind.startswith("behind the purifier: ")
    assert bare.partition(": ")[2] != behind.partition(": ")[2]
    for label in ("angry", "happy", "neutral", "sad"):
        assert label in behind


class Encoder:
    """Has the interface of ``speechbrain.inference.classifiers.EncoderClassifier``, whose
    ``classify_file`` loads a file and asks ``encode_batch``; SpeechBrain itself is not needed.
    """

    device = "cpu"
    audio_normalizer = SimpleNamespace(sample_rate=16_000)

    @classmethod
    def from_hparams(cls, source: str) -> Encoder:
        assert source == "emotions"
        return cls()

    def encode_batch(self, wavs: torch.Tensor, wav_lens: torch.Tensor) -> torch.Tensor:
        assert wavs.shape == (1, 16_000)
        assert wav_lens.tolist() == [1.0]
        return torch.fft.rfft(wavs).abs()[:, :8_000].reshape(1, 4, -1).mean(dim=2)

    def classify_file(self, path: str) -> tuple[Any, Any, Any, list[str]]:
        sound = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        probabilities = self.encode_batch(sound[None], torch.ones(1)).softmax(dim=1).log()
        score, index = probabilities.max(dim=1)
        return probabilities, score, index, ["neu", "ang", "hap", "sad"][int(index) :][:1]


class Onnx:
    """Has the interface of ``audonnx.Model``: called as ``model(signal, sampling_rate)``."""

    outputs: ClassVar = {"hidden_states": None, "logits": None}

    def __call__(self, signal: np.ndarray, sampling_rate: int) -> dict[str, np.ndarray]:
        assert sampling_rate == 16_000
        hidden = np.abs(np.fft.rfft(signal))[:7_800].reshape(1, 3, -1)
        return {"hidden_states": hidden, "logits": hidden.mean(axis=2)}

    def labels(self, name: str) -> list[str]:
        assert name == "logits"
        return ["arousal", "dominance", "valence"]


@pytest.mark.parametrize(
    ("library", "module", "contents"),
    [
        ("speechbrain", "speechbrain.inference.classifiers", {"EncoderClassifier": Encoder}),
        ("audonnx", "audonnx", {"load": lambda root: Onnx()}),
    ],
)
def test_models_of_other_libraries_are_defended(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    library: str,
    module: str,
    contents: dict[str, Any],
) -> None:
    """On objects of the libraries' interfaces: the same answer as of sound purified by hand."""
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**contents))
    path, purifier = "recordings/anna/angry_01.wav", "ssad-plus-synthetic"
    answers = []
    for _ in "ab":
        run(f"defend_{library}.py", "emotions", path, "--purifier", purifier)
        answers += [line.partition(": ") for line in capsys.readouterr().out.splitlines()[-2:]]
        sound, rate = soundfile.read(path, dtype="float32")
        cleaned = sx.Purifier.from_pretrained(purifier).purify(sound, rate)
        soundfile.write(path, cleaned, rate, subtype="FLOAT")
    (first, _, bare), (second, _, behind), (_, _, by_hand), _ = answers
    assert (first, second) == ("bare", "behind the purifier")
    assert behind == by_hand != bare
