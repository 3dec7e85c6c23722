"""The runtime gives what the torch path gives, and refuses what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from servax import audio, pretrained, runtime
from servax.errors import CheckpointError, ServaxError, SettingError, ShapeError
from servax.purifier import Purifier
from servax.runtime import Mixture

Pair = tuple[Purifier, runtime.Purifier]
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def pair(exported: tuple[Purifier, Path]) -> Pair:
    return exported[0], runtime.Purifier.load(exported[1], threads=1)


@pytest.fixture(scope="session")
def packaged() -> Pair:
    folder = pretrained.folder("ssad-plus-ravdess")
    return Purifier.from_pretrained(folder), runtime.Purifier.load(folder, threads=1)


@pytest.mark.parametrize("seconds", [0.05, 0.7, 6.3, 13.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_sound_is_purified_as_by_torch(
    pair: Pair, noisy_voice: np.ndarray, rate: int, seconds: float
) -> None:
    torch_path, light = pair
    repeated = np.resize(noisy_voice, int(np.ceil(seconds * rate)))
    expected = torch_path.purify(repeated, rate)
    found = light.purify(repeated, rate)
    assert found.dtype == np.float32
    assert np.abs(expected - repeated).max() > 100 * TOLERANCE  # there is something to agree on
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("seconds", [0.7, 13.0])
def test_a_full_sound_is_limited_as_by_torch(
    packaged: Pair, noisy_voice: np.ndarray, seconds: float
) -> None:
    torch_path, light = packaged
    full = np.resize(noisy_voice, int(seconds * 16_000))
    full = full / np.abs(full).max()
    stream = light.stream(16_000)
    streamed = np.concatenate([stream.feed(full), stream.finish()])
    found = light.purify(full, 16_000)
    assert stream.limited.samples > 0
    assert max(np.abs(found).max(), np.abs(streamed).max()) <= 1.0
    np.testing.assert_allclose(found, torch_path.purify(full, 16_000), atol=2 * TOLERANCE)


def test_a_stream_gives_what_that_of_torch_gives(pair: Pair, noisy_voice: np.ndarray) -> None:
    streams = [each.stream(16_000, hop_seconds=1.0, look_ahead_seconds=0.5) for each in pair]
    made = [
        np.concatenate([*(s.feed(part) for part in np.array_split(noisy_voice, 7)), s.finish()])
        for s in streams
    ]
    assert len(made[1]) == len(noisy_voice)
    np.testing.assert_allclose(made[1], made[0], atol=TOLERANCE)


def test_less_of_the_change_is_let_through_as_by_torch(pair: Pair, noisy_voice: np.ndarray) -> None:
    for mixture in (Mixture(mix=0.5), Mixture(limit_db=12.0), Mixture(mix=0.1, limit_db=12.0)):
        expected, found = (each.mixed(mixture).purify(noisy_voice, 16_000) for each in pair)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_silence_stays_silence(pair: Pair) -> None:
    assert not pair[1].purify(np.zeros(16_000, dtype=np.float32), 16_000).any()


@pytest.mark.real_corpus
def test_real_clips_are_purified_as_by_torch(
    packaged: Pair, real_data: Callable[[str], Path]
) -> None:
    torch_path, light = packaged
    files = sorted(real_data("ravdess").glob("Actor_0[1-3]/*.wav"))[::45]
    for number, path in enumerate(files):
        rate = (16_000, 44_100)[number % 2]
        sound = audio.read(path, sample_rate=rate)
        for clip in (sound, sound[rate : rate + rate // 10]):
            np.testing.assert_allclose(
                light.purify(clip, rate), torch_path.purify(clip, rate), atol=TOLERANCE
            )
    long = np.concatenate([audio.read(path) for path in files])[: 20 * 16_000]
    sounds = [each.purify(long, 16_000) for each in (light, torch_path)]
    np.testing.assert_allclose(*sounds, atol=TOLERANCE)


def test_inputs_are_refused(pair: Pair) -> None:
    light, second = pair[1], np.zeros(16_000, dtype=np.float32)
    with pytest.raises(ShapeError, match=r"waveform has shape \(799,\), expected \(T,\) mono"):
        light.purify(second[:799], 16_000)
    with pytest.raises(SettingError, match=r"sample_rate is 0, expected a rate in \[1000"):
        light.purify(second, 0)
    with pytest.raises(SettingError, match="waveform is 'not finite'"):
        light.purify(np.full(16_000, np.nan), 16_000)
    with pytest.raises(SettingError, match=r"hop_seconds is nan, expected at least 0.05 s"):
        light.stream(16_000, hop_seconds=float("nan"))


def test_files_are_refused(exported: tuple[Purifier, Path], tmp_path: Path) -> None:
    load = runtime.Purifier.load
    with pytest.raises(SettingError, match="threads is 0, expected a whole number of at least 1"):
        load(exported[1], threads=0)
    with pytest.raises(CheckpointError, match=r"holds none; expected one file that ends in .onnx"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing.onnx: no such file"):
        load(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CheckpointError, match="is no ONNX file that onnxruntime can run"):
        load(tmp_path / "text.onnx")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("role", None, "holds no network of servax export, expected a purifier"),
        ("role", "defended recogniser", "holds a defended recogniser, expected a purifier"),
        ("role", "purifier of log-Mels", "holds a purifier of log-Mels, expected a purifier"),
        ("sample_rate", "many", "sample_rate is 'many', expected a number"),
        ("clip_seconds", None, "clip_seconds is 'missing', expected a number. Export it again"),
        ("clip_seconds", "nan", "clip_seconds is nan, expected a number in"),
    ],
)
def test_metadata_are_refused(
    exported: tuple[Purifier, Path], tmp_path: Path, key: str, value: str | None, sentence: str
) -> None:
    model = onnx.load(exported[1])
    said = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
    onnx.helper.set_model_props(model, {k: v for k, v in said.items() if v is not None})
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match=sentence):
        runtime.Purifier.load(tmp_path / "a.onnx")


def test_another_rate_needs_soxr(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    second = np.ones(44_100, dtype=np.float32)
    with pytest.raises(
        ServaxError, match=r"sound of 44100 Hz \(the purifier hears 16000 Hz\) needs soxr"
    ):
        pair[1].purify(second, 44_100)
    assert len(pair[1].purify(second[:16_000], 16_000)) == 16_000
