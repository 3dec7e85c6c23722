"""Checkpoints of servax and classes of the user's own as subjects, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from servax.errors import CheckpointError, PathError, ServaxError, SettingError
from servax.evaluation.loading import load_system
from servax.features import FrontEnd, FrontEndSettings, LogMelSettings, Scale, ScaleSettings
from servax.models import VGG16, save_network
from servax.training import global_seed

LABELS = ("angry", "happy", "sad")
FRONT_END = FrontEndSettings(logmel=LogMelSettings(mels=32), frames=40)
CODE = """
import torch
from torch import nn
from servax.features import FrontEnd, FrontEndSettings, LogMelSettings, Scale, ScaleSettings

class Sound(nn.Module):
    inputs = "waveform"
    sample_rate = 8000
    labels = ["angry", "happy", "sad"]
    def __init__(self, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]) * gain)
        self.dropout = nn.Dropout(0.5)
    def forward(self, x):
        return self.dropout(x.mean(1, keepdim=True) * self.weight)

class Silent(nn.Module):  # says nothing about itself; two attributes are parts of the network
    def __init__(self):
        super().__init__()
        self.labels = nn.Linear(64, 2)
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, x):
        return self.labels(x.mean(3)[:, 0]) * self.scale

class Complete(nn.Module):
    inputs = "logmel"
    labels = ("no", "yes")
    def __init__(self):
        super().__init__()
        logmel = LogMelSettings(8000, mels=20, f_max=4000)
        self.front_end = FrontEnd(FrontEndSettings(logmel, None, 9))
        self.scale = Scale(ScaleSettings(top_db=3.0))
    def forward(self, x):
        return x.reshape(-1, 180)[:, :2]

def make(classes=2, word="a"):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, classes))

def text():
    return "no network"

def broken():
    raise KeyError("weights.pt")

class Wrong(nn.Module):
    def forward(self, x):
        return {"logits": x}

class Wrapped(nn.Module):  # around a model of another library, which says what its head is
    inputs, labels, sample_rate, seconds = "waveform", ["a", "b"], 100, 1
    def __init__(self, problem_type):
        super().__init__()
        self.inner = nn.Linear(100, 2)
        self.inner.config = type("Config", (), {"problem_type": problem_type})
    def forward(self, x):
        return self.inner(x)

class Placed(Wrapped):
    labels = ["arousal", "valence"]
    def __init__(self):
        super().__init__(None)

class Flat(nn.Module):
    def forward(self, x):
        return x.mean((1, 2, 3))

NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module of a user's own into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_models.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "own_failing.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "own_needing.py").write_text("import not_there_at_all", encoding="utf-8")
    yield "own_models"
    for name in ("own_models", "own_failing", "own_needing"):
        sys.modules.pop(name, None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with global_seed(0, "weights"):
        network = VGG16(3, 1)
    extra = {
        "role": "recogniser",
        "labels": list(LABELS),
        "scale": asdict(ScaleSettings(top_db=12.0)),
        "front_end": asdict(FRONT_END),
    }
    save_network(network, tmp_path / "vgg" / "model", extra=extra)
    return tmp_path / "vgg" / "model"


@pytest.mark.parametrize("deeper", [True, False])
def test_a_checkpoint(checkpoint: Path, deeper: bool) -> None:
    subject = load_system(str(checkpoint if deeper else checkpoint.parent))
    assert (subject.name, subject.inputs, subject.labels) == ("vgg", "logmel", LABELS)
    assert (subject.sample_rate, subject.gradients, subject.bounds) == (16_000, True, (0.0, 1.0))
    assert subject.front_end == FRONT_END
    assert isinstance(subject.scale, Scale)
    assert subject.scale.settings == ScaleSettings(top_db=12.0)
    assert not subject.model.training
    x = torch.rand(2, 1, 32, 40, requires_grad=True)
    with global_seed(0, "weights"):
        expected = VGG16(3, 1).eval()(x)
    torch.testing.assert_close(subject.model(x), expected)
    subject.model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    json.dumps(subject.identity)


def test_a_checkpoint_hears_sound_where_waveforms_are_asked_for(checkpoint: Path) -> None:
    subject = load_system(str(checkpoint), inputs="waveform")
    assert (subject.inputs, subject.bounds, subject.front_end) == ("waveform", (-1.0, 1.0), None)
    sound = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    x = Scale(ScaleSettings(top_db=12.0))(FrontEnd(FRONT_END)(sound))
    torch.testing.assert_close(
        subject.model(sound), load_system(str(checkpoint)).model(x), rtol=1e-5, atol=1e-5
    )
    assert subject.identity != load_system(str(checkpoint)).identity


def test_the_fingerprint_is_of_the_weights(checkpoint: Path) -> None:
    first = load_system(str(checkpoint)).fingerprint
    assert load_system(str(checkpoint)).fingerprint == first
    extra = json.loads((checkpoint / "settings.json").read_text(encoding="utf-8"))["extra"]
    with global_seed(1, "weights"):
        save_network(VGG16(3, 1), checkpoint, extra=extra)
    assert load_system(str(checkpoint)).fingerprint != first


def test_labels_rename_those_of_a_checkpoint(checkpoint: Path) -> None:
    assert load_system(str(checkpoint), labels=["a", "b", "c"]).labels == ("a", "b", "c")


def test_a_class_of_waveforms_that_says_everything(module: str) -> None:
    path = list(sys.path)
    subject = load_system(f"{module}:Sound", init={"gain": 2.0})
    assert sys.path == path
    assert (subject.name, subject.inputs, subject.labels) == ("Sound", "waveform", LABELS)
    assert (subject.sample_rate, subject.bounds) == (8000, (-1.0, 1.0))
    assert subject.front_end is subject.scale is None
    assert subject.source == "class own_models:Sound(gain=2.0)"
    x = torch.full((1, 10), 0.5, requires_grad=True)
    assert subject.model(x).tolist() == [[1.0, 2.0, 3.0]]  # without dropout
    subject.model(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((1, 10), (2.0 + 4.0 + 6.0) / 10))


def test_a_class_that_says_nothing(module: str) -> None:
    subject = load_system(f"{module}:Silent", inputs="logmel", labels=["b", "a"])
    assert (subject.front_end, subject.scale) == (FrontEndSettings(), None)
    assert (subject.sample_rate, subject.labels) == (16_000, ("b", "a"))
    slow = load_system(f"{module}:Silent", inputs="logmel", labels=["b", "a"], sample_rate=8000)
    assert slow.front_end is not None
    assert slow.front_end.logmel == LogMelSettings(sample_rate=8000, f_max=4000.0)


def test_a_class_with_a_front_end_and_scale_of_its_own(module: str) -> None:
    subject = load_system(f"{module}:Complete")
    assert (subject.sample_rate, subject.labels) == (8000, ("no", "yes"))
    assert subject.front_end is not None
    assert (subject.front_end.logmel.mels, subject.front_end.frames) == (20, 9)
    assert isinstance(subject.scale, Scale)
    assert subject.scale.settings.top_db == 3.0


def test_a_function_with_arguments(module: str) -> None:
    said: dict[str, Any] = {"inputs": "logmel", "labels": ["a", "b", "c"]}
    before = torch.get_rng_state()
    subject = load_system(f"{module}:make", init={"classes": 3, "word": "x"}, **said)
    assert torch.equal(torch.get_rng_state(), before)
    assert subject.model(torch.zeros(2, 1, 8, 9)).shape == (2, 3)


def test_the_fingerprint_of_a_class_is_of_weights_arguments_and_code(
    module: str, tmp_path: Path
) -> None:
    def fingerprint(gain: float) -> str:
        return load_system(f"{module}:Sound", init={"gain": gain}).fingerprint

    first = fingerprint(1.0)
    assert fingerprint(1.0) == first
    assert fingerprint(2.0) != first
    (tmp_path / "own_models.py").write_text(CODE.replace("x.mean(1", "x.sum(1"), encoding="utf-8")
    del sys.modules[module]
    assert fingerprint(1.0) != first


LOGMEL: dict[str, Any] = {"inputs": "logmel", "labels": ["a", "b"]}


@pytest.mark.parametrize(
    ("path", "said", "sentence"),
    [
        ("own_absent:Net", {}, "own_absent:Net: no module own_absent, neither in .* nor installed"),
        ("own_models.deeper:Net", {}, "no module own_models.deeper, neither in"),
        ("own_failing:Net", {}, "own_failing cannot be imported .ZeroDivisionError: division"),
        ("own_needing:Net", {}, "own_needing imports not_there_at_all, which is not installed"),
        ("own_models:Sond", {}, "own_models has no Sond. Did you mean 'Sound'?"),
        ("own_models:NUMBER", {}, "is a int, expected a class or a function"),
        ("own_models:text", {}, "makes a str, expected a torch.nn.Module"),
        ("own_models:broken", {}, "cannot be made from the arguments {}.*KeyError: 'weights.pt'"),
        ("own_models:Sound", {"init": {"gian": 1}}, "from the arguments {'gian': 1}.*TypeError"),
        ("own_models:a.b", {}, "expected a class path of the form package.module:Name"),
        (":Net", {}, "expected a class path of the form package.module:Name"),
        (
            "own_models:Silent",
            {},
            "inputs is None, expected a value such as 'logmel' or 'waveform'",
        ),
        ("own_models:Wrong", {"inputs": "waveform"}, "sample_rate is None, expected a value such"),
        (
            "own_models:Sound",
            {"inputs": "logmel"},
            "inputs is 'logmel', expected 'waveform', which",
        ),
        (
            "own_models:Sound",
            {"sample_rate": 9},
            "sample_rate is 9, expected 8000, which own_models",
        ),
        (
            "own_models:Complete",
            {"sample_rate": 9},
            "9, expected 8000, which the front-end of own_m",
        ),
        (
            "own_models:make",
            {"inputs": "logmel"},
            "labels is None.*names of the 2 classes.*labels=",
        ),
        (
            "own_models:make",
            {**LOGMEL, "labels": ["a"]},
            r"\['a'\], expected 2 names, one for each",
        ),
        ("own_models:make", {**LOGMEL, "labels": ["a", "A"]}, "names that differ"),
        ("own_models:make", {**LOGMEL, "labels": "ab"}, "labels is 'ab', expected a list of names"),
        ("own_models:make", {**LOGMEL, "init": {"classes": 1}}, "C of at least 2"),
        (
            "own_models:Wrong",
            LOGMEL,
            r"returns a dict, expected a model from \(B, 1, M, F\) to log",
        ),
        (
            "own_models:Flat",
            LOGMEL,
            r"returns shape \(1,\) for one input of zeros \(1, 1, 64, 373\)",
        ),
        (
            "own_models:Silent",
            {"inputs": "waveform", "sample_rate": 100},
            r"fails on one input of zeros \(1, 300\), expected a model from \(B, T\) to logits",
        ),
    ],
)
def test_refused_classes(module: str, path: str, said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServaxError, match=sentence):
        load_system(path, **said)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {"labels": ["a", "b"]},
            r"\['a', 'b'\], expected 3 names, one for each logit of the check",
        ),
        ({"sample_rate": 8000}, "sample_rate is 8000, expected 16000, which the checkpoint"),
        ({"init": {"a": 1}}, "init is {'a': 1}, expected nothing: only a class path"),
    ],
)
def test_what_contradicts_a_checkpoint(
    checkpoint: Path, said: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        load_system(str(checkpoint), **said)


@pytest.mark.parametrize("said", [{"inputs": "melody"}, {"sample_rate": 0}])
def test_statements_outside_their_rule(said: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(said))):
        load_system("anything", **said)


def test_a_part_says_that_several_classes_may_be_right(module: str) -> None:
    init = {"problem_type": "multi_label_classification"}
    assert load_system("own_models:Wrapped", init=init).multi_label


def test_a_part_or_its_labels_say_that_outputs_are_numbers(module: str) -> None:
    assert load_system("own_models:Wrapped", init={"problem_type": "regression"}).regression
    assert load_system("own_models:Placed").regression


def test_what_is_no_model_is_answered_with_the_forms(tmp_path: Path) -> None:
    forms = r"runs/vgg/model.*hf://owner/name.*recogniser\.onnx.*my_package\.models:Recogniser"
    with pytest.raises(
        SettingError, match=f"model is 'vgg', expected a packaged recogniser.*{forms}"
    ):
        load_system("vgg")
    with pytest.raises(PathError, match=f"holds neither settings.json nor config.json.*{forms}"):
        load_system(str(tmp_path))
    with pytest.raises(PathError, match=f"is a pickle, which servax never opens.*{forms}"):
        load_system("runs/best.pt")


def test_a_broken_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_system(str(checkpoint))
