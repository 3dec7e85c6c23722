"""Files appear whole or not at all; int8 is close; bad use is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import soundfile
import torch
from torch import Tensor, nn

import servax.runtime.host
from servax import runtime
from servax.cli import main
from servax.errors import CheckpointError, ServaxError, SettingError
from servax.models import FrameTransformer, UNet
from servax.purifier import Purifier, export
from servax.purifier.export import Exported, export_purifier
from servax.purifier.quantising import kept_float, quantised
from servax.recognition import Recogniser
from servax.runtime.purifier import open_session

Trio = tuple[Purifier, Recogniser, Exported]
Make = Callable[[nn.Module], Purifier]


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_int8_is_close_and_says_so(defended: Trio, method: Literal["static", "dynamic"]) -> None:
    exact_file = Path(defended[2].path).read_bytes()
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.normal(size=(1, 20_000))).astype(np.float32) for _ in range(8)]
    rounded_file = quantised(exact_file, clips if method == "static" else ())
    model = onnx.load_from_string(rounded_file)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["quantised"] == f"int8, {method}"
    assert json.loads(said["labels"]) == ["angry", "happy", "sad"]
    kinds = {each.data_type for each in model.graph.initializer}
    assert kinds & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    sessions = [open_session(file, threads=1) for file in (exact_file, rounded_file)]
    exact, rounded = (s.run(["residual"], {"waveform": clips[0]})[0] for s in sessions)
    assert abs(float(exact[0] - rounded[0])) < 0.02
    assert not np.array_equal(exact, rounded)


def test_what_carries_decibels_stays_float(defended: Trio) -> None:
    model = onnx.load(defended[2].path)
    kept = set(kept_float(model))
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert kept & set(convolutions) < set(convolutions)
    weights = {n.input[1]: n.name for n in model.graph.node if n.op_type == "MatMul"}
    assert weights["front_end.logmel.even"] in kept  # the Fourier transform
    assert weights["front_end.logmel.band_0"] in kept  # the Mel filters


@pytest.mark.parametrize(
    ("count", "int8", "sentence"),
    [(8, False, "'8 clips', expected none: it belongs"), (7, True, "'7 clips', expected at least")],
)
def test_clips_that_calibrate_nothing_are_refused(
    make_purifier: Make, tmp_path: Path, count: int, int8: bool, sentence: str
) -> None:
    clips = [np.zeros((1, 1, 64, 50), dtype=np.float32)] * count
    purifier = make_purifier(FrameTransformer(blocks=1, feedforward=8))
    with pytest.raises(SettingError, match=f"calibration is {sentence}"):
        export_purifier(purifier, tmp_path / "a.onnx", int8=int8, calibration=clips)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.pt", "expected a file name that ends in .onnx"),
        ("missing/a.onnx", "its folder does not exist"),
        ("folder.onnx", "is a folder"),
        ("there.onnx", "is there already; add --overwrite"),
    ],
)
def test_places_are_refused_before_any_work(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"old")
    with pytest.raises(CheckpointError, match=sentence):
        export.check_place(tmp_path / name, overwrite=False)
    assert (tmp_path / "there.onnx").read_bytes() == b"old"


class Stubborn(nn.Module):
    """Branches by what it hears, which no graph can."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_network_that_cannot_be_exported_leaves_the_old_file(
    make_purifier: Make, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ServaxError, match=r"this Stubborn cannot be exported with torch \d"):
        export_purifier(make_purifier(Stubborn()), path, logmel=True, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_bytes() == b"old"


def test_a_file_that_differs_from_torch_is_not_kept(
    make_purifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "difference", lambda *_: 0.01)
    purifier = make_purifier(FrameTransformer(blocks=1, feedforward=8))
    with pytest.raises(ServaxError, match=r"the file differs from torch by 0.01, more than 0.0001"):
        export_purifier(purifier, tmp_path / "a.onnx", logmel=True)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named_where_it_is_missing(
    make_purifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(servax.runtime.host.importlib, "import_module", missing)
    with pytest.raises(ServaxError, match=r"needs onnx .*pip install '\.\[onnx\]'"):
        export_purifier(make_purifier(UNet(width=8, levels=2)), tmp_path / "a.onnx")


@pytest.fixture
def folder(tmp_path: Path, make_purifier: Make) -> Path:
    """A folder with a purifier and eight sounds."""
    make_purifier(FrameTransformer(blocks=1, feedforward=16)).save_pretrained(tmp_path / "mine")
    (tmp_path / "sounds").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        noise = rng.normal(0, 0.05, 16_000)
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", noise, 16_000)
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, out = str(folder / "mine"), folder / "a.onnx"
    assert main(["export", mine, "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["role"], said["int8"], said["path"]) == ("purifier", False, str(out))
    assert said["size_bytes"] == out.stat().st_size
    light = runtime.Purifier.load(out)
    sound = np.random.default_rng(0).normal(0, 0.05, 12_000).astype(np.float32)
    before = light.purify(sound, 16_000)
    assert before.shape == sound.shape

    options = ["--logmel", "--int8", "--calibration", str(folder / "sounds"), "--overwrite"]
    assert main(["export", mine, "-o", str(out), *options]) == 0
    assert "int8" in capsys.readouterr().out
    logmel = np.random.default_rng(0).random((1, 1, 64, 120), dtype=np.float32)
    (rounded,) = open_session(out, threads=1).run(None, {"logmel": logmel})
    with torch.inference_mode():
        exact = Purifier.from_pretrained(mine)(torch.from_numpy(logmel)).numpy()
    assert 0 < np.abs(rounded - exact).mean() < 0.05


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "out is None, expected a file to write that ends in .onnx, given as -o OUT"),
        (["-o", "a.onnx", "--int8", "--calibration", "mine"], "mine: holds no sound file"),
        (["-o", "a.onnx", "--calibration", "x"], "expected none: it belongs to --int8"),
        (["-o", "a.txt"], "a.txt: expected a file name that ends in .onnx"),
        (["-o", "a.onnx", "--recogniser", "nobody"], "nobody: no such folder"),
        (["-o", "a.onnx", "--recogniser", "x", "--logmel"], "belongs to a purifier alone"),
    ],
)
def test_the_command_refuses(
    folder: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert main(["export", "mine", *options]) != 0
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not list(folder.glob("*.onnx"))
