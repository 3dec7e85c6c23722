"""A pipeline of transformers behind a purifier takes what it took before, and hears it purified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

import servax as sx
from servax.errors import CheckpointError, ServaxError, SettingError, ShapeError
from servax.runtime import NoiseWiener
from servax.runtime.stream import SoundCleaner

transformers = pytest.importorskip("transformers")

RATE = 16_000


def voice(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return draws.normal(0, 0.05, round(seconds * rate)).astype(np.float32)


SOUNDS = [voice(0.5), voice(0.4, seed=1), voice(0.6, seed=2)]


@pytest.fixture(scope="module")
def purifier() -> sx.Purifier:
    return sx.Purifier.from_pretrained("ssad-plus-synthetic")


@pytest.fixture
def bare(tmp_path: Path, tiny_wav2vec2: Callable[[Path], None]) -> Any:
    tiny_wav2vec2(tmp_path / "tiny")
    return transformers.pipeline("audio-classification", model=str(tmp_path / "tiny"))


@pytest.fixture
def behind(bare: Any, purifier: sx.Purifier) -> Any:
    return sx.protected_pipeline(bare, purifier)


def expected(bare: Any, purifier: SoundCleaner, sound: np.ndarray, **settings: Any) -> Any:
    return bare({"raw": purifier.purify(sound, RATE), "sampling_rate": RATE}, **settings)


def same(found: Any, wanted: Any) -> bool:
    """Say whether labels and scores agree; the scores of a tiny random model lie far apart."""
    if [each["label"] for each in found] != [each["label"] for each in wanted]:
        return False
    logs = [np.log([each["score"] + 1e-30 for each in answer]) for answer in (found, wanted)]
    return np.allclose(*logs, atol=0.02)


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda sound: sound,
    "tensor": torch.from_numpy,
    "float64": lambda sound: sound.astype(np.float64),
    "raw": lambda sound: {"raw": sound, "sampling_rate": RATE},
    "array of datasets": lambda s: {"array": s, "sampling_rate": RATE, "path": "gone.wav"},
    "tensor in a dictionary": lambda s: {"raw": torch.from_numpy(s), "sampling_rate": RATE},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_one_sound_in_each_form(bare, behind, purifier, form) -> None:
    found = behind(form(SOUNDS[0]))
    assert same(found, expected(bare, purifier, SOUNDS[0]))
    assert not same(found, bare({"raw": SOUNDS[0], "sampling_rate": RATE}))


@pytest.mark.parametrize(
    "kind",
    [
        str,
        lambda path: path.read_bytes(),
        lambda path: path,
        lambda path: bytearray(path.read_bytes()),
    ],
)
def test_files_of_any_rate_and_channels_without_ffmpeg(
    bare, behind, purifier, tmp_path: Path, kind: Callable[[Path], Any]
) -> None:
    sound = np.stack([voice(0.5, 44_100), voice(0.5, 44_100, seed=1)], axis=1)
    soundfile.write(tmp_path / "b.wav", sound, 44_100, subtype="FLOAT")
    mono = soxr.resample(sound.mean(axis=1), 44_100, RATE, quality="HQ")
    assert same(behind(kind(tmp_path / "b.wav")), expected(bare, purifier, mono))
    found = behind({"array": sound.mean(axis=1), "sampling_rate": 44_100})
    assert same(found, expected(bare, purifier, mono))


def test_noise_and_its_filter_stand_before_it(bare) -> None:
    found, again = (sx.protected_pipeline(bare, "noise-wiener:20")(SOUNDS[0]) for _ in "ab")
    seeded = [NoiseWiener(20.0, np.random.default_rng(0)) for _ in "ab"]
    wanted = expected(bare, seeded[0], SOUNDS[0])
    assert same(sx.protected_pipeline(bare, seeded[1])(SOUNDS[0]), wanted)
    assert found != again


def test_a_url(bare, behind, purifier, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "c.wav", SOUNDS[0], RATE, subtype="FLOAT")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        found = behind(f"{url}c.wav")
        with pytest.raises(ServaxError, match=r"none\.wav cannot be fetched .*404"):
            behind(f"{url}none.wav")
        server.shutdown()
    assert same(found, expected(bare, purifier, SOUNDS[0]))


def test_a_decoder_of_torchcodec(bare, behind, purifier) -> None:
    decoded = SimpleNamespace(data=torch.from_numpy(SOUNDS[0])[None], sample_rate=RATE)
    found = behind(SimpleNamespace(get_all_samples=lambda: decoded))
    assert same(found, expected(bare, purifier, SOUNDS[0]))


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return len(SOUNDS)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"array": SOUNDS[row], "sampling_rate": RATE}


@pytest.mark.parametrize("make", [lambda: list(Rows()), lambda: (r for r in Rows()), Rows])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_sounds_in_batches(bare, behind, purifier, make, batch_size) -> None:
    found = list(behind(make(), batch_size=batch_size, top_k=2))
    wanted = list(
        bare(
            [{"raw": purifier.purify(s, RATE), "sampling_rate": RATE} for s in SOUNDS],
            batch_size=batch_size,
            top_k=2,
        )
    )
    assert len(found) == 3
    assert all(
        len(each) == 2 and same(each, other) for each, other in zip(found, wanted, strict=True)
    )


def test_a_generator_is_asked_as_it_is_heard(behind) -> None:
    asked: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            asked.append(len(asked))
            yield SOUNDS[0]

    answers = behind(endless())
    next(iter(answers))
    assert len(asked) < 10


def test_the_pipeline_itself_stays_as_it_was(bare, behind) -> None:
    before = bare({"raw": SOUNDS[0], "sampling_rate": RATE})
    behind(SOUNDS[0])
    assert same(bare({"raw": SOUNDS[0], "sampling_rate": RATE}), before)
    assert isinstance(behind, type(bare))
    assert behind.model is bare.model
    assert behind.device == bare.device


def test_a_purifier_may_be_named(bare, behind) -> None:
    assert same(sx.protected_pipeline(bare, "ssad-plus-synthetic")(SOUNDS[0]), behind(SOUNDS[0]))
    with pytest.raises(CheckpointError):
        sx.protected_pipeline(bare, "ssad-plus-nowhere")


def test_the_purifier_computes_on_the_pipelines_device(bare, purifier, monkeypatch) -> None:
    went: list[Any] = []
    whole = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, *a, **k: went.append((type(self), a)) or whole(self, *a)
    )
    sx.protected_pipeline(bare, purifier)
    assert (sx.Purifier, (bare.device,)) in went


@pytest.mark.parametrize("given", [None, "wav2vec2", object(), SimpleNamespace(preprocess=print)])
def test_what_is_no_pipeline_is_refused(given: Any, purifier) -> None:
    with pytest.raises(SettingError, match=r"classify is .*, expected an audio-classification pip"):
        sx.protected_pipeline(given, purifier)


@pytest.mark.parametrize("given", [None, 3, torch.nn.Identity()])
def test_what_is_no_purifier_is_refused(given: Any, bare) -> None:
    with pytest.raises(
        SettingError, match=r"purifier is .*, expected an instance of servax's SoundC"
    ):
        sx.protected_pipeline(bare, given)


def test_what_is_no_sound_is_refused_as_by_the_purifier(behind) -> None:
    with pytest.raises(ShapeError, match=r"the sound has shape \(2, 8000\), expected \(T,\) mono"):
        behind(np.zeros((2, 8_000), dtype=np.float32))
    with pytest.raises(SettingError, match="keys of the sound"):
        behind({"sound": SOUNDS[0]})
