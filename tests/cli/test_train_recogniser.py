"""``servax train recogniser`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.cli import main
from servax.models import Noise, SmoothedClassifier
from servax.recognition import EncoderRecogniser, Recogniser

RATE = 16_000


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVAX_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(4)
    lines = ["path,label,speaker"]
    for speaker in "abc":
        for name in ("angry", "happy", "neutral", "sad"):
            audio.write(tmp_path / f"{speaker}-{name}.wav", draws.normal(0, 0.1, RATE // 2), RATE)
            lines.append(f"{speaker}-{name}.wav,{name},{speaker}")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def train(manifest: Path, out: Path, *options: str) -> int:
    common = ["--groups", "3", "--width", "1", "--epochs", "1", "--device", "cpu"]
    return main(["train", "recogniser", str(manifest), *common, "-o", str(out), *options])


@pytest.mark.parametrize(
    ("options", "kind"),
    [([], "VGG16"), (["--network", "resnet"], "ResNet"), (["--network", "crnn"], "CRNN")],
)
def test_each_network_is_trained_loaded_and_only_a_vgg16_guides_a_purifier(
    manifest: Path,
    tmp_path: Path,
    options: list[str],
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert train(manifest, out, *options) == 0
    weights = (out / "model" / "weights.safetensors").read_bytes()
    assert train(manifest, out, *options) == 0  # it is there
    assert (out / "model" / "weights.safetensors").read_bytes() == weights
    settings = json.loads((out / "model" / "settings.json").read_text(encoding="utf-8"))
    assert settings["network"] == kind
    assert settings["settings"] == {"classes": 4, "width": 1}
    assert Recogniser.from_pretrained(out / "model").labels == ("angry", "happy", "neutral", "sad")
    if kind == "VGG16":
        return
    capsys.readouterr()
    purify = ["train", "purifier", str(manifest), str(out / "model"), "--groups", "3"]
    assert main([*purify, "--device", "cpu", "-o", str(tmp_path / "p")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == f"servax: extractor is '{kind}', expected a VGG16, which has taps for features."


def test_a_training_of_another_network_is_not_resumed(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(manifest, out, "--network", "crnn") == 0
    capsys.readouterr()
    assert train(manifest, out, "--network", "resnet") != 0
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"servax: {out}/checkpoint.pt: ")


def test_an_unknown_network_is_refused(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(manifest, tmp_path / "out", "--network", "vgg19") == 2
    assert "vgg19" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_head_is_trained_on_a_speech_encoder(
    manifest: Path,
    tmp_path: Path,
    tiny_wav2vec2: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_wav2vec2(tmp_path / "encoder")
    encoder = ["--encoder", str(tmp_path / "encoder"), "--draws", "1"]
    assert train(manifest, tmp_path / "out", *encoder) == 0
    assert "then trained on those speakers too" in capsys.readouterr().err
    found = Recogniser.from_pretrained(tmp_path / "out" / "model")
    assert isinstance(found, EncoderRecogniser)
    assert found.labels == ("angry", "happy", "neutral", "sad")
    assert found.speakers == ("b", "c")
    weights = (tmp_path / "out" / "model" / "weights.safetensors").read_bytes()
    assert train(manifest, tmp_path / "again", *encoder) == 0
    assert (tmp_path / "again" / "model" / "weights.safetensors").read_bytes() == weights
    assert train(manifest, tmp_path / "other", *encoder, "--seed", "1") == 0
    assert (tmp_path / "other" / "model" / "weights.safetensors").read_bytes() != weights
    assert train(manifest, tmp_path / "deeper", *encoder, "--layers", "2") == 2
    assert "layers is 2, expected from 1 to 1, the layers of" in capsys.readouterr().err
    assert train(manifest, tmp_path / "none", "--layers", "2") == 2
    assert "layers is 2, expected none without --encoder" in capsys.readouterr().err
    assert train(manifest, tmp_path / "none", "--vaccinate", "15") == 2
    assert "vaccinate is 15.0, expected none without --encoder" in capsys.readouterr().err


def test_a_vaccinated_head_adds_its_noise_itself(
    manifest: Path, tmp_path: Path, tiny_wav2vec2: Callable[[Path], None]
) -> None:
    tiny_wav2vec2(tmp_path / "encoder")
    options = ["--encoder", str(tmp_path / "encoder"), "--vaccinate", "15", "--draws", "2"]
    assert train(manifest, tmp_path / "out", *options) == 0
    found = Recogniser.from_pretrained(tmp_path / "out" / "model")
    assert isinstance(found.network, SmoothedClassifier)
    assert found.network.noise == Noise(15.0, draws=8)


def test_an_encoder_is_tuned_under_attack_saved_and_not_tuned_again(
    manifest: Path, tmp_path: Path, tiny_wav2vec2: Callable[[Path], None]
) -> None:
    encoder, out = tmp_path / "encoder", tmp_path / "out"
    encoder.mkdir()
    tiny_wav2vec2(encoder)
    common = ["train", "recogniser", str(manifest), "--groups", "3", "--device", "cpu"]
    tuned = [*common, "--encoder", str(encoder), "--vaccinate", "15", "--draws", "2"]
    tuned += ["--tune", "1", "--attacked", "35", "-o", str(out)]
    assert main(tuned) == 0
    weights = out / "model" / "encoder" / "model.safetensors"
    published = (encoder / "model.safetensors").read_bytes()
    assert weights.read_bytes() != published
    written = weights.stat().st_mtime_ns
    network = EncoderRecogniser.from_pretrained(out / "model").network
    assert isinstance(network, SmoothedClassifier)
    assert network.noise == Noise(15.0, 8)
    assert main(tuned) == 0  # the checkpoint says that it is done
    again = EncoderRecogniser.from_pretrained(out / "model").network.state_dict()
    assert all(np.array_equal(v, again[k]) for k, v in network.state_dict().items())
    assert weights.stat().st_mtime_ns >= written
    assert (encoder / "model.safetensors").read_bytes() == published


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tune", "1"], "servax: tune is 1, expected none without --encoder"),
        (["--attacked", "35"], "servax: attacked is 35.0, expected none without --tune"),
        (
            ["--encoder", "e", "--tune", "1", "--devices", "2"],
            "servax: tune is 1, expected none with several devices",
        ),
    ],
)
def test_options_that_need_another_are_refused(
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    assert train(manifest, tmp_path / "out", *options) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(told)
