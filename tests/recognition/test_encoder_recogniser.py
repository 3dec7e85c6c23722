"""A recogniser with a speech encoder is one like any other: in a folder, and in an audit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from servax.errors import CheckpointError, SettingError
from servax.evaluation.loading import load_system
from servax.models import (
    EncoderClassifier,
    EncoderHead,
    Noise,
    SmoothedClassifier,
    open_encoder,
)
from servax.recognition import EncoderRecogniser, Recogniser
from servax.training import generator

SOUND = np.random.default_rng(0).normal(0, 0.05, 12_000).astype(np.float32)
LABELS = ("angry", "happy", "sad")


@pytest.fixture
def encoder(tiny_wav2vec2: Callable[[Path], None], tmp_path: Path) -> Path:
    tiny_wav2vec2(tmp_path / "encoder-of-transformers")
    return tmp_path / "encoder-of-transformers"


@pytest.fixture
def recogniser(encoder: Path) -> EncoderRecogniser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = EncoderHead(3, 16, 1)
    network = EncoderClassifier(open_encoder(str(encoder)), head).eval()
    return EncoderRecogniser(network, LABELS, ("s2", "s1"))


def test_it_hears_the_sound_itself(recogniser: EncoderRecogniser) -> None:
    x = recogniser.inputs(SOUND, 16_000)
    assert torch.equal(x, torch.from_numpy(SOUND)[None])
    expected = recogniser.network(x)[0].softmax(0)
    assert torch.equal(recogniser(SOUND, 16_000), expected)
    slower = soxr.resample(SOUND, 16_000, 8_000, quality="HQ")
    assert recogniser.inputs(slower, 8_000).shape == (1, 12_000)
    assert recogniser.sample_rate == 16_000
    long = np.arange(16_000 * 31, dtype=np.float32) / 1e6
    assert torch.equal(recogniser.inputs(long, 16_000)[0], torch.from_numpy(long[8_000:-8_000]))


@pytest.mark.parametrize("name", ["front_end", "scale"])
def test_it_has_no_log_mel(recogniser: EncoderRecogniser, name: str) -> None:
    with pytest.raises(SettingError, match="expected one that hears log-Mel, as servax train"):
        getattr(recogniser, name)


@pytest.mark.parametrize("whole", [False, True])
def test_it_comes_back_from_a_folder(
    recogniser: EncoderRecogniser, encoder: Path, tmp_path: Path, whole: bool
) -> None:
    place = tmp_path / "model"
    recogniser.save_pretrained(place, encoder=whole)
    assert (place / "encoder").is_dir() is whole
    assert (place / "weights.safetensors").stat().st_size < 2_000
    card = (place / "README.md").read_text(encoding="utf-8")
    assert "`settings.json` holds the head, and which encoder it needs" in card
    if whole:
        encoder.rename(tmp_path / "gone")
    for kind in (Recogniser, EncoderRecogniser):
        found = kind.from_pretrained(place)
        assert isinstance(found, EncoderRecogniser)
        assert torch.equal(found(SOUND, 16_000), recogniser(SOUND, 16_000))
        assert (found.labels, found.speakers) == (LABELS, ("s1", "s2"))
        assert found.network.encoder.place == str(encoder)


def test_one_that_adds_noise_comes_back_with_it(
    recogniser: EncoderRecogniser, tmp_path: Path
) -> None:
    plain, (first, second) = recogniser.network, (generator(4), generator(4))
    network = SmoothedClassifier(plain.encoder, plain.head, Noise(12.0, draws=3), first)
    EncoderRecogniser(network, LABELS).save_pretrained(tmp_path / "model")
    found = EncoderRecogniser.from_pretrained(tmp_path / "model", generator=second)
    assert isinstance(found.network, SmoothedClassifier)
    assert found.network.noise == Noise(12.0, draws=3)
    x = found.inputs(SOUND, 16_000)
    assert torch.equal(found(SOUND, 16_000), network(x)[0].softmax(0))
    again = Recogniser.from_pretrained(tmp_path / "model")
    assert not torch.equal(again(SOUND, 16_000), again(SOUND, 16_000))
    assert load_system(str(tmp_path / "model"), seconds=0.5).gradients
    place = tmp_path / "model" / "settings.json"
    settings = json.loads(place.read_text(encoding="utf-8"))
    settings["extra"]["noise"]["draws"] = 10**9
    place.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"draws is 1000000000, expected a whole number in"):
        Recogniser.from_pretrained(tmp_path / "model")


def test_another_encoder_is_refused(
    recogniser: EncoderRecogniser, encoder: Path, tmp_path: Path
) -> None:
    recogniser.save_pretrained(tmp_path / "model")
    moved = encoder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="transformers cannot read it"):
        Recogniser.from_pretrained(tmp_path / "model")
    found = EncoderRecogniser.from_pretrained(tmp_path / "model", encoder=str(moved))
    found.save_pretrained(tmp_path / "again")
    assert torch.equal(
        Recogniser.from_pretrained(tmp_path / "again")(SOUND, 16_000), found(SOUND, 16_000)
    )
    place = tmp_path / "again" / "settings.json"
    settings = json.loads(place.read_text(encoding="utf-8"))
    settings["extra"]["encoder"]["sha256"] = "0" * 64
    place.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"is another encoder than the one .*expected 0000"):
        Recogniser.from_pretrained(tmp_path / "again")


def test_it_is_audited_as_it_answers(recogniser: EncoderRecogniser, tmp_path: Path) -> None:
    recogniser.save_pretrained(tmp_path / "mine" / "model")
    system = load_system(str(tmp_path / "mine"), seconds=0.5)
    assert (system.inputs, system.sample_rate, system.labels) == ("waveform", 16_000, LABELS)
    assert (system.name, system.gradients, system.exact) == ("mine", True, True)
    x = torch.from_numpy(SOUND)[None, :8_000]
    assert torch.equal(system.model(x), recogniser.network(x))
    with pytest.raises(SettingError, match="inputs is 'logmel', expected 'waveform'"):
        load_system(str(tmp_path / "mine"), inputs="logmel")


def test_the_encoder_of_a_head_before_is_not_taken_for_another_ones(
    recogniser: EncoderRecogniser, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    with torch.no_grad():
        next(iter(recogniser.network.encoder.blocks[0].parameters())).mul_(2.0)  # tuned
    recogniser.save_pretrained(place, encoder=True)
    tuned = EncoderRecogniser.from_pretrained(place)
    tuned.save_pretrained(place)  # its encoder lies there and nowhere else
    said = EncoderRecogniser.from_pretrained(place)(SOUND, 16_000)
    assert torch.equal(said, recogniser(SOUND, 16_000))
    published = open_encoder(recogniser.network.encoder.place)
    network = EncoderClassifier(published, recogniser.network.head).eval()
    other = EncoderRecogniser(network, LABELS)
    other.save_pretrained(place)
    said = EncoderRecogniser.from_pretrained(place)(SOUND, 16_000)
    assert torch.equal(said, other(SOUND, 16_000))
