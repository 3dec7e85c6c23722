"""Exported files compute what torch does, for any batch and any length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from servax import audio
from servax.defences import Defended, Detector
from servax.errors import SettingError
from servax.evaluation.loading import load_system
from servax.features import FrontEnd, FrontEndSettings, LogMelSettings
from servax.models import CRNN, VGG16, FrameTransformer, ResNet, WaveformClassifier
from servax.purifier import Purifier
from servax.purifier.export import OPSET, Exported, export_purifier
from servax.purifier.onnx_graphs import GraphLogMel, graph_network
from servax.recognition import Recogniser

TOLERANCE = 1e-4
Trio = tuple[Purifier, Recogniser, Exported]
Noise = Callable[..., np.ndarray]


def run(path: str | Path, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


@torch.inference_mode()
def by_torch(purifier: Purifier, recogniser: Recogniser, waveform: np.ndarray) -> list[Tensor]:
    """Compute the three outputs by the parts that the rest of servax is made of."""
    logmel = recogniser.logmel
    x, network = logmel(torch.from_numpy(waveform)), recogniser.network
    defended = WaveformClassifier(logmel, Defended(network, purifier))
    return [defended(torch.from_numpy(waveform)), network(x), Detector(purifier)(x)]


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 257), (3, 5_000), (1, 16_000), (2, 40_321), (1, 960_000)]
)
def test_the_whole_graph(defended: Trio, noisy: Noise, shape: tuple[int, int]) -> None:
    purifier, recogniser, made = defended
    found = run(made.path, noisy(*shape))
    for one, other in zip(found, by_torch(purifier, recogniser, noisy(*shape)), strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=TOLERANCE)
    assert not np.allclose(found[0], found[1], atol=10 * TOLERANCE)  # the purifier has a say


def test_a_purifier_alone(make_purifier: Callable[[nn.Module], Purifier], tmp_path: Path) -> None:
    mels = 32
    purifier = make_purifier(FrameTransformer(mels, 1, 4, 32, True))
    purifier.front_end = FrontEndSettings(logmel=LogMelSettings(mels=mels), frames=100)
    made = export_purifier(purifier, tmp_path / "p.onnx", logmel=True)
    assert made.difference < TOLERANCE
    for batch, frames in ((1, 1), (2, 37), (1, 900)):
        x = torch.rand(batch, 1, mels, frames, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = purifier(x).numpy()
        (found,) = run(made.path, x.numpy())
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("network", [VGG16(3, 2), ResNet(3, 2)])
def test_other_recognisers(
    network: VGG16 | ResNet,
    make_purifier: Callable[[nn.Module], Purifier],
    make_recogniser: Callable[..., Recogniser],
    noisy: Noise,
    tmp_path: Path,
) -> None:
    purifier = make_purifier(FrameTransformer(blocks=1, feedforward=8))
    recogniser = make_recogniser(network)
    made = export_purifier(purifier, tmp_path / "d.onnx", recogniser=recogniser)
    found = run(made.path, noisy(2, 20_000))
    for one, other in zip(found, by_torch(purifier, recogniser, noisy(2, 20_000)), strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=TOLERANCE)


FRONT_ENDS = [
    FrontEndSettings(),
    FrontEndSettings(frames=50, fill="floor", level_dbfs=None),
    FrontEndSettings(
        logmel=LogMelSettings(
            window="hamming", spectrum="magnitude", mel_scale="slaney", logarithm="natural"
        )
    ),
    FrontEndSettings(logmel=LogMelSettings(window_samples=400, hop_samples=160, mels=40)),
    FrontEndSettings(logmel=LogMelSettings(window_samples=401, hop_samples=160, mels=40)),
]


@pytest.mark.parametrize("settings", FRONT_ENDS)
@pytest.mark.parametrize("length", [1, 90, 256, 257, 5_000, 15_999, 120_000])
def test_the_front_end_of_the_graph_is_that_of_torch(
    settings: FrontEndSettings, length: int, noisy: Noise
) -> None:
    waveform = torch.from_numpy(noisy(2, length))
    graph = FrontEnd(settings)
    graph.logmel = GraphLogMel(settings.logmel)
    expected, found = FrontEnd(settings)(waveform), graph(waveform)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)  # dB


def test_a_purifier_of_sound(
    make_purifier: Callable[[nn.Module], Purifier], tmp_path: Path
) -> None:
    logmel = LogMelSettings(
        window_samples=400, hop_samples=160, mels=40, logarithm="natural", spectrum="magnitude"
    )
    settings = FrontEndSettings(logmel=logmel)
    purifier = make_purifier(FrameTransformer(settings.logmel.mels, 1, 4, 32, True))
    purifier.front_end = settings
    made = export_purifier(purifier, tmp_path / "p.onnx")
    for length in (800, 5_000, 15_872, 59_000):
        sound = 0.1 * np.random.default_rng(0).normal(size=length).astype(np.float32)
        (found,) = run(made.path, sound[None])
        np.testing.assert_allclose(found[0] - sound, purifier.difference(sound), atol=TOLERANCE)


@torch.inference_mode()
def test_the_copy_that_is_exported_computes_the_same(
    make_recogniser: Callable[..., Recogniser],
) -> None:
    network = make_recogniser(CRNN(3, 4)).network
    x = torch.rand(2, 1, 64, 60)
    torch.testing.assert_close(graph_network(network)(x), network(x), atol=1e-5, rtol=0)


def test_what_a_file_says_about_itself(defended: Trio) -> None:
    model = onnx.load(defended[2].path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["role"] == "defended recogniser"
    assert json.loads(said["labels"]) == ["angry", "happy", "sad"]
    assert (said["sample_rate"], said["opset"]) == ("16000", str(OPSET))
    assert json.loads(said["scale"]) == {"top_db": 40.0, "window_db": 80.0}
    assert json.loads(said["front_end"])["logmel"]["window_samples"] == 512
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes["waveform"] == ["batch", "samples"]
    assert sizes["logits"] == sizes["undefended_logits"] == ["batch", 3]
    assert sizes["residual"] == ["batch"]


def test_a_file_does_not_tell_of_the_machine_it_was_made_on(defended: Trio) -> None:
    held = Path(defended[2].path).read_bytes()
    assert b"torch.onnx" not in held
    assert b".py" not in held
    assert str(Path.cwd()).encode() not in held


def test_an_audit_can_load_it(defended: Trio, noisy: Noise) -> None:
    purifier, recogniser, made = defended
    subject = load_system(made.path)
    assert (subject.inputs, subject.sample_rate) == ("waveform", 16_000)
    assert subject.labels == ("angry", "happy", "sad")
    x = noisy(3, 9_000)
    logits = by_torch(purifier, recogniser, x)[0]
    torch.testing.assert_close(subject.model(torch.from_numpy(x)), logits, atol=TOLERANCE, rtol=0)


def test_networks_that_do_not_fit_are_refused(defended: Trio, tmp_path: Path) -> None:
    purifier, recogniser, _ = defended
    other = Recogniser(
        recogniser.network, recogniser.labels, recogniser.scale, FrontEndSettings(level_dbfs=None)
    )
    with pytest.raises(SettingError, match="recogniser is 'of another log-Mel, level or scale'"):
        export_purifier(purifier, tmp_path / "d.onnx", recogniser=other)
    assert not list(tmp_path.iterdir())


@pytest.mark.real_corpus
def test_real_clips_through_the_packaged_networks(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    purifier = Purifier.from_pretrained("ssad-plus-ravdess")
    recogniser = Recogniser.from_pretrained("crnn-ravdess")
    names = ("ssad-plus-ravdess", "crnn-ravdess")
    made = export_purifier(purifier, tmp_path / "d.onnx", recogniser=recogniser, names=names)
    session: Any = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    for path in sorted(real_data("ravdess").glob("Actor_0[1-3]/*.wav"))[::20]:
        sound = audio.read(path)[None]
        found = session.run(None, {"waveform": sound})
        for one, other in zip(found, by_torch(purifier, recogniser, sound), strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=TOLERANCE)
    said = session.get_modelmeta().custom_metadata_map
    licence = "cc-by-nc-sa-4.0"
    assert said["licence"] == f"purifier: {licence}; recogniser: {licence}"
