"""ONNX files as subjects: scores as NumPy computes them, whatever sizes the file is fixed to."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from servax.errors import CheckpointError, PathError, ServaxError, SettingError, ShapeError
from servax.evaluation.loading import load_system
from servax.evaluation.systems import System

LABELS = ["angry", "happy", "sad"]
WEIGHTS = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
Size = int | str


def write(
    path: Path,
    shape: Sequence[Size],
    *,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("logits",),
    metadata: dict[str, str] | None = None,
) -> str:
    """Write a model whose logits are the mean of the input times `WEIGHTS`."""
    axes = list(range(1, len(shape)))
    number = helper.tensor_dtype_to_np_dtype(kind)
    rank_two = numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "rank_two")
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "rank_two"], ["column"]),
        *(helper.make_node("MatMul", ["column", "weights"], [name]) for name in outputs),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, ["rows", 3]) for name in outputs],
        [
            numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"),
            numpy_helper.from_array(WEIGHTS.astype(number), "weights"),
            rank_two,
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return str(path)


def said(**changed: Any) -> dict[str, str]:
    return {"labels": json.dumps(LABELS), "sample_rate": "8000", **changed}


def expected(x: torch.Tensor) -> np.ndarray:
    return np.asarray(x.flatten(1).numpy().mean(axis=1, keepdims=True) @ WEIGHTS)


def scores(subject: System, x: torch.Tensor) -> np.ndarray:
    logits = subject.model(x)
    assert logits.dtype == torch.float32
    return np.asarray(logits.numpy())


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize(
    "shape",
    [("B", "T"), (1, "T"), (2, "T"), ("B", 1, "M", "F"), (1, 1, 32, 40), ("B", "C", 32, "F")],
)
def test_it_scores_as_numpy_does(tmp_path: Path, shape: tuple[Size, ...], kind: int) -> None:
    path = write(tmp_path / "mean.onnx", shape, kind=kind, metadata=said())
    subject = load_system(path)
    draws = torch.Generator().manual_seed(0)
    sizes = (5, 333) if len(shape) == 2 else (5, 1, 32, 40)
    x = torch.rand(sizes, generator=draws)
    tolerance = 5e-3 if kind == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(scores(subject, x), expected(x), rtol=tolerance)
    assert (subject.name, subject.labels, subject.sample_rate) == ("mean", tuple(LABELS), 8000)
    assert subject.inputs == ("waveform" if len(shape) == 2 else "logmel")
    assert subject.bounds == ((-1.0, 1.0) if len(shape) == 2 else (0.0, 1.0))
    assert not subject.gradients
    assert not subject.model(x.requires_grad_()).requires_grad


def test_the_front_end_has_the_sizes_of_the_file(tmp_path: Path) -> None:
    subject = load_system(write(tmp_path / "a.onnx", ("B", 1, 32, 40), metadata=said()))
    assert subject.front_end is not None
    assert (subject.front_end.logmel.mels, subject.front_end.frames) == (32, 40)
    assert (subject.front_end.logmel.sample_rate, subject.front_end.logmel.f_max) == (8000, 4000)
    assert subject.scale is None


def test_a_fixed_length_keeps_the_middle_and_fills_with_zeros(tmp_path: Path) -> None:
    subject = load_system(write(tmp_path / "a.onnx", ("B", 100), metadata=said()))
    x = torch.rand(2, 140, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(scores(subject, x), expected(x[:, 20:120]), rtol=1e-5)
    filled = np.pad(x[:, :60].numpy(), ((0, 0), (0, 40)))
    wanted = filled.mean(axis=1, keepdims=True) @ WEIGHTS
    np.testing.assert_allclose(scores(subject, x[:, :60]), wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 100), (2, 0)])
def test_empty_inputs_are_refused_in_a_sentence(tmp_path: Path, shape: tuple[int, int]) -> None:
    subject = load_system(write(tmp_path / "a.onnx", ("B", "T"), metadata=said()))
    with pytest.raises(ShapeError, match=r"^x has shape .*, expected at least one input of at lea"):
        subject.model(torch.zeros(shape))


def test_what_a_file_does_not_say_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.onnx", ("B", "T"))
    subject = load_system(path, labels=["x", "y", "z"], sample_rate=22_050)
    assert (subject.labels, subject.sample_rate) == (("x", "y", "z"), 22_050)
    assert subject.fingerprint == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_output_called_logits_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "two.onnx", ("B", "T"), outputs=("other", "logits"), metadata=said())
    assert load_system(path).model.output == "logits"


@pytest.mark.parametrize(
    ("shape", "file", "given", "sentence"),
    [
        (
            ("B", 1, "T"),
            {},
            {},
            r"takes x tensor\(float\).*expected one input of numbers, \(B, T\)",
        ),
        (("B", "T"), {"kind": TensorProto.INT64}, {}, r"takes x tensor\(int64\)"),
        (("B", "T"), {"outputs": ("a", "b")}, {}, "gives a, b; expected one output, or `logits`"),
        (("B", "T"), {"metadata": said(labels="angry")}, {}, "has metadata that cannot be read"),
        (("B", "T"), {"metadata": said(labels='"angry"')}, {}, "`labels` as a JSON list of names"),
        (("B", "T"), {"metadata": said(sample_rate="fast")}, {}, "`sample_rate` as a whole number"),
        (("B", "T"), {"metadata": said(labels='["a"]')}, {}, r"\['a'\], expected 3 names, one for"),
        (("B", "T"), {}, {"labels": LABELS}, "sample_rate is None, expected a value such as 16000"),
        (("B", "T"), {}, {"sample_rate": 8000}, "labels is None.*names of the 3 classes"),
        (("B", "T"), {"metadata": said()}, {"sample_rate": 9}, "sample_rate is 9, expected 8000"),
        (("B", "T"), {"metadata": said()}, {"inputs": "logmel"}, "expected 'waveform', which"),
        (("B", 3, "M", "F"), {"metadata": said()}, {}, r"\(B, 3, any, any\), as the ONNX file"),
    ],
)
def test_refused_files(
    tmp_path: Path, shape: Sequence[Size], file: Any, given: Any, sentence: str
) -> None:
    path = write(tmp_path / "a.onnx", shape, **file)
    with pytest.raises(ServaxError, match=sentence):
        load_system(path, **given)


def test_refused_before_it_is_a_model(tmp_path: Path) -> None:
    with pytest.raises(PathError, match=r"absent\.onnx: no such file; expected an ONNX file"):
        load_system(str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no ONNX file that onnxruntime can run"):
        load_system(str(tmp_path / "text.onnx"))
    with pytest.raises(SettingError, match="only a class path takes arguments"):
        load_system(str(tmp_path / "text.onnx"), init={"a": 1})


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ServaxError, match=r"needs onnxruntime .*pip install '\.\[onnx\]'"):
        load_system(write(tmp_path / "a.onnx", ("B", "T")))
