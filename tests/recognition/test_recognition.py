"""A recogniser answers for a sound as its parts do by hand, and comes back from a folder whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from servax import audio
from servax.errors import CheckpointError, ServaxError, SettingError, ShapeError
from servax.features import FrontEnd, FrontEndSettings, LogMelSettings, Scale, ScaleSettings
from servax.models import VGG16, FrameTransformer, save_network
from servax.pretrained import folder
from servax.purifier import Purifier
from servax.recognition import Recogniser

SOUND = np.random.default_rng(0).normal(0, 0.05, 12_000).astype(np.float32)
FRONT_END = FrontEndSettings(LogMelSettings(mels=32), frames=48)


@pytest.fixture
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    scale = Scale(ScaleSettings(top_db=20.0))
    return Recogniser(VGG16(3, 1).eval(), ("a", "b", "c"), scale, FRONT_END, ("s2", "s1"))


def by_hand(recogniser: Recogniser, sound: np.ndarray) -> torch.Tensor:
    """Return the probabilities of mono sound at the front-end's rate, step by step."""
    with torch.no_grad():
        x = recogniser.scale(FrontEnd(FRONT_END)(torch.from_numpy(sound.copy())[None]))
        return recogniser.network(x).softmax(1)[0]


def test_it_says_what_its_parts_say(recogniser: Recogniser) -> None:
    expected = by_hand(recogniser, SOUND)
    assert torch.equal(recogniser(SOUND, 16_000), expected)
    assert torch.equal(recogniser(torch.from_numpy(SOUND), 16_000), expected)
    assert torch.equal(recogniser({"array": SOUND, "sampling_rate": 16_000}), expected)
    stereo = np.stack([2 * SOUND, np.zeros_like(SOUND)])
    torch.testing.assert_close(recogniser(stereo, 16_000), expected)
    x = recogniser.inputs(SOUND, 16_000)
    assert x.shape == (1, 1, 32, 48)
    assert not x.is_inference()  # an attack differentiates from here
    assert torch.equal(recogniser.network(x).softmax(1)[0], expected)
    assert float(expected.sum()) == pytest.approx(1.0)


def test_another_rate_is_resampled(recogniser: Recogniser) -> None:
    expected = by_hand(recogniser, soxr.resample(SOUND, 8_000, 16_000, quality="HQ"))
    assert torch.equal(recogniser(SOUND, 8_000), expected)


def test_a_file_sounds_as_it_is_read(recogniser: Recogniser, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([SOUND, 0.5 * SOUND], axis=1), 22_050)
    expected = by_hand(recogniser, audio.read(path, sample_rate=16_000))
    for given in (path, str(path), path.read_bytes()):
        torch.testing.assert_close(recogniser(given), expected, atol=1e-6, rtol=1e-5)


def test_the_network_keeps_its_mode(recogniser: Recogniser) -> None:
    expected = by_hand(recogniser, SOUND)
    recogniser.network.train()
    assert torch.equal(recogniser(SOUND, 16_000), expected)
    assert recogniser.network.training


def test_nan_is_no_answer(recogniser: Recogniser) -> None:
    torch.nn.init.constant_(recogniser.network.head.bias, float("nan"))
    with pytest.raises(ServaxError, match="the model's output for input 0 is NaN or infinite"):
        recogniser(SOUND, 16_000)


def test_what_is_no_sound_is_refused(recogniser: Recogniser) -> None:
    with pytest.raises(ShapeError, match=r"expected one sound, \(T,\) or \(channels, T\)"):
        recogniser(np.zeros((2, 2, 12_000), np.float32), 16_000)
    with pytest.raises(SettingError, match="sample_rate is None, expected the rate"):
        recogniser(SOUND)
    with pytest.raises(SettingError, match=r"network is '.*Dict', expected a torch\.nn\.Module"):
        Recogniser(recogniser.network.state_dict(), "ab", recogniser.scale)  # type: ignore[arg-type]


def test_it_comes_back_from_a_folder(recogniser: Recogniser, tmp_path: Path) -> None:
    recogniser.save_pretrained(tmp_path / "model")
    found = Recogniser.from_pretrained(tmp_path / "model")
    assert torch.equal(found(SOUND, 16_000), recogniser(SOUND, 16_000))
    assert (found.labels, found.speakers) == (("a", "b", "c"), ("s1", "s2"))
    assert found.front_end == FRONT_END
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: audio-classification" in card
    assert "the names of the 2 speakers that were heard" in card
    assert "No licence was stated" in card


def test_a_packaged_one_is_saved_as_it_was(tmp_path: Path) -> None:
    Recogniser.from_pretrained("crnn-synthetic").save_pretrained(tmp_path)
    for name in ("settings.json", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder("crnn-synthetic") / name).read_bytes()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    extra: dict[str, Any] = {
        "role": "recogniser",
        "labels": ["a", "b"],
        "scale": {"top_db": 1.0, "window_db": 80.0},
        "front_end": {},
    }
    save_network(VGG16(2, 1), tmp_path / "target", extra=extra)
    assert Recogniser.from_pretrained(tmp_path / "target").speakers == ()
    return tmp_path / "target"


NOTHING = "/settings.json: holds no scale, front-end and labels of a recogniser; train it again."
OTHER = ": holds a purifier, expected a recogniser written by servax train."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: e.pop("labels"), NOTHING),
        (lambda e: e.update(labels=["a"]), NOTHING),
        (lambda e: e.update(scale="db"), NOTHING),
        (lambda e: e["front_end"].update(hop=1), NOTHING),
        (
            lambda e: e["scale"].update(window_db=0),
            "/settings.json: window_db is 0, expected a width above 0 dB.",
        ),
        (lambda e: e.update(role="purifier"), OTHER),
    ],
)
def test_malformed_recognisers_are_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    settings = json.loads((saved / "settings.json").read_text(encoding="utf-8"))
    change(settings["extra"])
    (saved / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{saved}{sentence}')}$"):
        Recogniser.from_pretrained(saved)


def test_a_purifier_is_no_recogniser(tmp_path: Path) -> None:
    network = FrameTransformer(mels=32, blocks=1, heads=4, feedforward=8)
    Purifier(network, Scale(ScaleSettings(top_db=0.0))).save_pretrained(tmp_path / "ssad")
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{tmp_path}/ssad{OTHER}')}$"):
        Recogniser.from_pretrained(tmp_path / "ssad")
