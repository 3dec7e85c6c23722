"""How long a model hears, what its class is given, and models in TorchScript files."""

from __future__ import annotations

import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from servax.cli import main
from servax.corpora import Selection
from servax.errors import CheckpointError, PathError, SettingError
from servax.evaluation.dataset import gather
from servax.evaluation.loading import load_system
from servax.evaluation.options import surrogate
from servax.evaluation.systems import hash_of_files

CODE = """
import torch
from torch import nn

class Fixed(nn.Module):  # takes sound of one length only
    inputs, sample_rate = "waveform", 16000
    labels = ("angry", "happy", "neutral", "sad")
    def __init__(self, length=2.0, width=4, deep=False, word="a"):
        super().__init__()
        self.told = (width, deep, word)
        self.layer = nn.Linear(int(length * 16000), width)
    def forward(self, x):
        return self.layer(x)

class Saying(Fixed):
    seconds = 2
class Never(Fixed):
    def forward(self, x):
        return self.layer(x[:, :7])
class Listening(Fixed):
    def __init__(self):
        super().__init__()
        self.seconds = nn.Linear(2, 2)  # a part of the network
    def forward(self, x):
        return x[:, :4]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timed_models.py").write_text(CODE, encoding="utf-8")
    yield "timed_models"
    sys.modules.pop("timed_models", None)


def test_a_model_of_a_fixed_length_is_probed_and_audited_with_it(module: str, voices: Path) -> None:
    for subject in (
        load_system(f"{module}:Saying"),
        load_system(f"{module}:Fixed", seconds=2.0),
        load_system(f"{module}:Fixed", init={"length": 3.0}),  # the audit's own length
    ):
        length = round(subject.seconds * 16_000)
        _, material = gather(subject, Selection(corpus=str(voices), groups=3, utterances=2))
        assert material.x.shape == (2, length)
        assert subject.model(material.x).shape == (2, 4)
        assert subject.gradients


def test_a_surrogate_hears_as_long_as_the_model(module: str) -> None:
    subject = load_system(f"{module}:Saying")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = surrogate(subject, f"other={module}:Fixed")
    assert other.seconds == subject.seconds == 2
    with pytest.raises(SettingError, match=r"seconds is 3.0, expected 2, which"):
        surrogate(load_system(f"{module}:Fixed", init={"length": 3.0}), f"{module}:Saying")


def test_a_part_of_the_network_called_seconds_is_left_alone(module: str) -> None:
    assert load_system(f"{module}:Listening").seconds == 3.0


@pytest.mark.parametrize(
    ("name", "said", "sentence"),
    [
        ("Fixed", {}, r"of 1, 2, 3, 4, 5, 6, 8, 10 s it takes 2 s: say seconds=2, as an attr"),
        ("Never", {}, r"it takes none: say its length with seconds"),
        ("Saying", {"seconds": 4.0}, r"seconds is 4.0, expected 2, which .* says itself"),
        ("Fixed", {"seconds": 0.0}, r"seconds is 0.0, expected a length above 0"),
        ("Fixed", {"seconds": 5.0}, r"zeros \(1, 80000\).* takes 2 s: say seconds=2"),
    ],
)
def test_a_length_that_does_not_fit_is_refused_with_one_that_does(
    module: str, name: str, said: Any, sentence: str
) -> None:
    with pytest.raises((PathError, SettingError), match=sentence):
        load_system(f"{module}:{name}", **said)


def test_a_model_of_log_mels_takes_no_seconds(own: str) -> None:
    with pytest.raises(SettingError, match=r"seconds is 3.0, expected nothing: .* its log-Mel"):
        load_system(f"{own}:Bands", seconds=3.0)


@pytest.mark.parametrize(
    ("option", "source"),
    [
        ("length=2,deep=true", "length=2, deep=True"),
        ('{"length": 2.0, "word": "b"}', "length=2.0, word='b'"),
        ("length=2,word=b c", "length=2, word='b c'"),
    ],
)
def test_the_command_gives_a_class_its_arguments(
    module: str, voices: Path, option: str, source: str, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    command = ["audit", f"{module}:Fixed", "--corpus", str(voices), "--groups", "3"]
    command += ["--tier", "smoke", "--utterances", "2", "--seconds", "2", "--sounds", "0"]
    command += ["--speech", "0"]
    code = main([*command, "--radius", "0.01", "--init", option, "--out", str(out), "--json"])
    assert code in (0, 4)  # an untrained model may do worse than its checks want
    assert f"({source})" in capsys.readouterr().out


class Scripted(nn.Module):
    def __init__(self, *, told: bool = True) -> None:
        super().__init__()
        self.bands = nn.Conv1d(1, 4, 400, 160)
        self.dropout = nn.Dropout(0.5)
        if told:
            self.labels = ["angry", "happy", "neutral", "sad"]
            self.sample_rate, self.inputs = 16_000, "waveform"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heard = self.bands(x.unsqueeze(1)).square().mean(2)
        return self.dropout((heard + 1e-5).log())


def scripted(path: Path, model: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model).save(str(path))
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ts", ".torchscript"])
def test_a_torchscript_file(tmp_path: Path, suffix: str) -> None:
    model = Scripted()
    path = scripted(tmp_path / f"model{suffix}", model)
    subject = load_system(str(path))
    assert (subject.name, subject.inputs, subject.sample_rate) == ("model", "waveform", 16_000)
    assert subject.labels == ("angry", "happy", "neutral", "sad")
    assert subject.source == f"TorchScript {path}"
    assert subject.fingerprint == hash_of_files([path])
    assert not any(part.training for part in subject.model.modules())
    assert not any(weight.requires_grad for weight in subject.model.parameters())
    x = (0.1 * torch.randn(2, 48_000)).requires_grad_(True)
    torch.testing.assert_close(subject.model(x), model.eval()(x))
    assert subject.gradients
    (gradient,) = torch.autograd.grad(subject.model(x).sum(), x)
    assert gradient.abs().sum() > 0


def test_a_torchscript_file_that_says_nothing(tmp_path: Path) -> None:
    path = str(scripted(tmp_path / "model.pt", Scripted(told=False)))
    with pytest.raises(SettingError, match="inputs is None"):
        load_system(path)
    said: dict[str, Any] = {"inputs": "waveform", "sample_rate": 8_000, "labels": list("abcd")}
    subject = load_system(path, **said)
    assert (subject.labels, subject.sample_rate) == (tuple("abcd"), 8_000)
    with pytest.raises(SettingError, match=r"init is .* only a class path takes arguments"):
        load_system(path, init={"a": 1})


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_refused_unopened_whatever_they_are_called(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2), "more": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.pt", "plain.pth"):
        with pytest.raises(PathError, match="is a pickle, which servax never opens") as told:
            load_system(str(tmp_path / name))
        assert told.value.exit_code == 2
    whole = scripted(tmp_path / "whole.pt", Scripted())
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "mixed.pt", "w") as new:
        for part in old.namelist():  # the data of a TorchScript archive exchanged for a pickle
            data = pickle.dumps(Evil()) if part.endswith("/data.pkl") else old.read(part)
            new.writestr(part.replace("whole/", "mixed/"), data)
    with pytest.raises(CheckpointError, match="torch cannot read it as TorchScript"):
        load_system(str(tmp_path / "mixed.pt"))


def test_a_torchscript_file_is_audited_whole(
    tmp_path: Path, voices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scripted(tmp_path / "model.pt", Scripted())
    command = ["audit", str(path), "--corpus", str(voices), "--groups", "3", "--tier", "smoke"]
    command += ["--utterances", "2", "--seconds", "0.5", "--radius", "0.05", "--sounds", "1"]
    command += ["--speech", "0"]
    assert main([*command, "--out", str(tmp_path / "out")]) in (0, 4)
    assert "report:" in capsys.readouterr().err
