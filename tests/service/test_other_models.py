"""A model of somebody else's behind the service: an ONNX file, a folder of Hugging Face, none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy.special import softmax
from service_running import PURIFIER, samples_of, sound
from test_serve_command import COMMAND, run_served

from servax.cli import main
from servax.purifier import Purifier
from servax.service import ServiceSettings, decode
from servax.service.other_models import OtherModel

WEIGHTS = np.array([[40.0, -20.0, 5.0]], dtype=np.float32)
LABELS = ["angry", "happy", "sad"]


@pytest.fixture
def loudness(tmp_path: Path) -> Path:
    """An ONNX file whose logits are the mean square of a sound times `WEIGHTS`."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "loudness",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        [
            numpy_helper.from_array(np.array([1]), "axes"),
            numpy_helper.from_array(WEIGHTS, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"labels": json.dumps(LABELS), "sample_rate": "16000"})
    onnx.save(model, tmp_path / "loudness.onnx")
    return tmp_path / "loudness.onnx"


def test_an_onnx_file_answers_before_and_behind_the_purifier(loudness: Path) -> None:
    body = sound(2.0, channels=2)
    models = OtherModel.load(PURIFIER, str(loudness))
    (found,) = models.classify([decode(body, ServiceSettings())])
    samples, rate = samples_of(body)
    mono = samples.mean(axis=1)
    purified = Purifier.from_pretrained(PURIFIER).purify(mono, rate)
    for given, said in ((mono, found.before), (purified, found.after)):
        expected = softmax(np.mean(given.astype(np.float64) ** 2) * WEIGHTS[0])
        np.testing.assert_allclose(list(said.probabilities.values()), expected, atol=1e-5)
        assert said.label == LABELS[int(expected.argmax())]
    assert 0 < found.residual < 1
    assert (found.seconds, found.heard_seconds, found.channels) == (2.0, 2.0, 2)


def test_silence_is_refused(loudness: Path) -> None:
    models = OtherModel.load(PURIFIER, str(loudness))
    quiet = decode(sound(1.0), ServiceSettings())
    (found,) = models.classify([type(quiet)(0 * quiet.samples, quiet.rate, quiet.container)])
    assert found.code == "silent"


def test_a_folder_of_hugging_face_answers(
    tiny_wav2vec2: Callable[[Path], None], tmp_path: Path
) -> None:
    import transformers

    folder = tmp_path / "emotion"
    tiny_wav2vec2(folder)
    body = sound(1.0)
    models = OtherModel.load(PURIFIER, str(folder))
    (found,) = models.classify([decode(body, ServiceSettings())])
    samples, rate = samples_of(body)
    library = transformers.AutoModelForAudioClassification.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    given = extractor(samples[:, 0], sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        expected = library(**given).logits.softmax(1)[0]
    np.testing.assert_allclose(list(found.before.probabilities.values()), expected, atol=1e-4)


def test_a_model_that_answers_in_numbers_is_refused(
    loudness: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(loudness)
    told = {"labels": '["arousal", "dominance", "valence"]', "sample_rate": "16000"}
    helper.set_model_props(model, told)
    onnx.save(model, loudness)
    assert main(["serve", "--port", "0", "--model", str(loudness)]) == 2
    assert "expected a model with a head that classifies" in capfd.readouterr().err


def test_what_cannot_be_loaded_is_refused_before_anybody_is_told_to_ask(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert main(["serve", "--port", "0", "--model", str(tmp_path / "broken.onnx")]) == 2
    told = capfd.readouterr()
    assert "broken.onnx: is no ONNX file" in told.err
    assert "listening" not in told.err
    assert told.out == ""


@pytest.mark.parametrize("options", [["--purify-only"], ["--model", "loudness.onnx"]])
def test_the_page_is_refused_where_it_could_attack_nothing(
    options: list[str],
    loudness: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(loudness.parent)
    assert main(["serve", "--port", "0", "--workers", "1", "--page", *options]) == 2
    told = capfd.readouterr()
    assert "page is True, expected false" in told.err
    assert told.out == ""


def test_the_worker_that_only_purifies_loads_no_torch() -> None:
    body = sound(1.0)
    with run_served(*COMMAND, "--purify-only") as (process, url):
        for child in psutil.Process(process.pid).children(recursive=True):
            maps = Path(f"/proc/{child.pid}/maps")
            assert not maps.exists() or "libtorch" not in maps.read_text()
        answer = httpx.post(f"{url}/v1/purify", content=body, headers={"Content-Type": "audio/wav"})
        found, rate = samples_of(answer.content)
        expected = Purifier.from_pretrained("ssad-plus-ravdess").purify(samples_of(body)[0].T, rate)
        np.testing.assert_allclose(found, expected.T, atol=2 * 2.0**-15)
        assert httpx.post(f"{url}/v1/classify", content=body).status_code == 404
        assert httpx.get(f"{url}/v1/models").json()["recogniser"] is None
        for model, status in (("purify", 200), ("classify", 404)):
            assert httpx.get(f"{url}/v2/models/{model}/ready").status_code == status


@pytest.mark.parametrize(("mib", "cpus", "workers"), [(3072, 16, 2), (65_536, 16, 16)])
def test_workers_fit_the_memory(
    mib: int, cpus: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servax.service.settings.memory_bytes", lambda: mib * 2**20)
    monkeypatch.setattr("servax.service.settings.cpus", lambda: cpus)
    assert ServiceSettings().worker_count == workers


@pytest.mark.parametrize("options", [(), ("--workers", "3")])
def test_what_cannot_fit_the_memory_is_refused(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("servax.service.settings.memory_bytes", lambda: 2**31 if options else 2**30)
    assert main(["serve", "--port", "0", *options]) == 2
    told = capsys.readouterr().err
    assert f"workers is {options[1] if options else 1}, expected as many as fit the" in told
    assert "lower --queue or --max-bytes" in told
