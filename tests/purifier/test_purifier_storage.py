from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import servax
from servax.errors import CheckpointError
from servax.features import (
    FrontEndSettings,
    LogMelSettings,
    Scale,
    ScaleSettings,
    ZScore,
    ZScoreSettings,
)
from servax.models import VGG16, FrameTransformer, save_network
from servax.pretrained import names
from servax.purifier import Purifier
from servax.training import global_seed

FRONT_END = FrontEndSettings(
    logmel=LogMelSettings(mels=32, f_min=20.0, window="hamming"), frames=40, level_dbfs=None
)


@pytest.fixture
def purifier() -> Purifier:
    with global_seed(0, "weights"):
        network = FrameTransformer(mels=32, blocks=2, heads=4, feedforward=16, residual=True)
        torch.nn.init.normal_(network.out.weight)
    scale = Scale(ScaleSettings(top_db=3.25, window_db=70.0))
    return Purifier(network, scale, FRONT_END).eval()


@pytest.fixture
def folder(purifier: Purifier, tmp_path: Path) -> Path:
    purifier.save_pretrained(tmp_path / "ssad")
    return tmp_path / "ssad"


def test_comes_back_as_saved(purifier: Purifier, folder: Path) -> None:
    back = Purifier.from_pretrained(folder)
    x = torch.rand(2, 1, 32, 55)
    assert torch.equal(back(x), purifier(x))
    assert (back.scale.settings, back.front_end) == (purifier.scale.settings, FRONT_END)
    assert back.network.settings == purifier.network.settings
    assert not back.training
    torch.testing.assert_close(back.frozen()(x), purifier(x))
    assert not any(p.requires_grad for p in back.frozen().parameters())
    assert all(p.requires_grad for p in back.parameters())


def test_fits_where_a_step_of_the_scale_is_as_many_db(purifier: Purifier) -> None:
    longer = replace(FRONT_END, frames=80)
    louder, wider, unit = (
        Scale(ScaleSettings(top_db=9.0, window_db=70.0)),
        Scale(ScaleSettings(top_db=3.25, window_db=80.0)),
        ZScore(ZScoreSettings(mean=(0.0,) * 32, sd=(1.0,) * 32)),
    )
    assert purifier.fits(louder, longer)
    assert not purifier.fits(wider, FRONT_END)
    assert not purifier.fits(unit, FRONT_END)
    assert not purifier.fits(None, FRONT_END)
    assert not purifier.fits(louder, None)
    assert not purifier.fits(louder, replace(FRONT_END, level_dbfs=-26.0))
    assert Purifier(purifier.network, unit, FRONT_END).fits(unit, longer)


def test_says_whom_it_has_heard(purifier: Purifier, tmp_path: Path) -> None:
    heard = Purifier(purifier.network, purifier.scale, FRONT_END, ["02", "01", "02"])
    assert heard.frozen().speakers == ("01", "02")
    heard.save_pretrained(tmp_path)
    assert Purifier.from_pretrained(tmp_path).speakers == ("01", "02")
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    del settings["extra"]["speakers"]  # as folders were written before
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    assert Purifier.from_pretrained(tmp_path).speakers == ()


def test_a_folder_holds_weights_settings_and_a_card_only(folder: Path) -> None:
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["README.md", "settings.json", "weights.safetensors"]
    load_file(folder / "weights.safetensors")
    extra = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["extra"]
    assert extra["role"] == "purifier"
    assert extra["scale"] == {"top_db": 3.25, "window_db": 70.0}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: servax" in card
    assert "sx.Purifier.from_pretrained(" in card
    assert "More Information Needed" not in card


def test_saving_again_replaces_it(purifier: Purifier, folder: Path) -> None:
    torch.nn.init.zeros_(purifier.network.out.weight)  # type: ignore[arg-type,union-attr]
    torch.nn.init.zeros_(purifier.network.out.bias)  # type: ignore[arg-type,union-attr]
    purifier.save_pretrained(folder)
    x = torch.rand(1, 1, 32, 40)
    assert torch.equal(Purifier.from_pretrained(folder)(x), x)
    assert len(list(folder.iterdir())) == 3


def test_output_is_clamped_and_gradients_pass(purifier: Purifier) -> None:
    x = torch.rand(2, 1, 32, 40, requires_grad=True)
    free = purifier.network(x).detach()
    assert bool((free < 0).any())
    assert bool((free > 1).any())
    purified = purifier(x)
    assert torch.equal(purified, free.clamp(0, 1))
    (gradient,) = torch.autograd.grad(purified.sum(), x)
    assert float(gradient.abs().max()) > 0


def test_home_folders_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    Purifier.from_pretrained("~/ssad")


def test_a_relative_path_is_no_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    Purifier.from_pretrained(f"{folder.parent.name}/ssad")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "settings.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    change(settings)
    path.write_text(json.dumps(settings), encoding="utf-8")


def drop_last_tensor(folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    save_file(
        {k: v.clone() for k, v in tensors.items() if k != "out.bias"},
        folder / "weights.safetensors",
    )


def poison(folder: Path) -> None:
    tensors = {k: v.clone() for k, v in load_file(folder / "weights.safetensors").items()}
    tensors["out.bias"][3] = float("nan")
    save_file(tensors, folder / "weights.safetensors")


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no settings": (
        lambda folder: (folder / "settings.json").unlink(),
        "/settings.json: no such file; expected a folder written by servax (save_pretrained, "
        "servax train).",
    ),
    "no weights": (
        lambda folder: (folder / "weights.safetensors").unlink(),
        "/weights.safetensors: no such file; the weights of this network are missing.",
    ),
    "weights cut short": (
        cut,
        "/weights.safetensors: is not a safetensors file, or is cut short.",
    ),
    "a tensor missing": (
        drop_last_tensor,
        "/weights.safetensors: does not fit its settings: 1 tensors differ, the first is out.bias "
        "with shape None, expected (32,).",
    ),
    "other sizes": (
        lambda folder: edit(folder, lambda s: s["settings"].update(feedforward=8)),
        "/weights.safetensors: does not fit its settings: 6 tensors differ, the first is "
        "encoder.layers.0.linear1.bias with shape (16,), expected (8,).",
    ),
    "NaN": (poison, "/weights.safetensors: holds numbers that are not finite in out.bias."),
    "not JSON": (
        lambda folder: (folder / "settings.json").write_text("{", encoding="utf-8"),
        "/settings.json: is not a JSON file.",
    ),
    "no object": (
        lambda folder: (folder / "settings.json").write_text("[]", encoding="utf-8"),
        "/settings.json: does not hold a JSON object.",
    ),
    "another role": (
        lambda folder: edit(folder, lambda s: s["extra"].update(role="recogniser")),
        ": holds a recogniser, expected a purifier written by Purifier.save_pretrained.",
    ),
    "no role": (
        lambda folder: edit(folder, lambda s: s.pop("extra")),
        ": holds a network, expected a purifier written by Purifier.save_pretrained.",
    ),
    "no scale": (
        lambda folder: edit(folder, lambda s: s["extra"].pop("scale")),
        "/settings.json: holds no scale and front-end of a purifier; train it again.",
    ),
    "unknown front-end setting": (
        lambda folder: edit(folder, lambda s: s["extra"]["front_end"].update(hop=3)),
        "/settings.json: holds no scale and front-end of a purifier; train it again.",
    ),
    "front-end of text": (
        lambda folder: edit(folder, lambda s: s["extra"].update(front_end="speech")),
        "/settings.json: holds no scale and front-end of a purifier; train it again.",
    ),
    "scale outside its rule": (
        lambda folder: edit(folder, lambda s: s["extra"]["scale"].update(window_db=-1)),
        "/settings.json: window_db is -1, expected a width above 0 dB.",
    ),
    "front-end outside its rule": (
        lambda folder: edit(folder, lambda s: s["extra"]["front_end"].update(fill="mirror")),
        "/settings.json: fill is 'mirror', expected one of floor, repeat.",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_folders_are_refused(folder: Path, case: str) -> None:
    spoil, sentence = MALFORMED[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{folder}{sentence}')}$"):
        Purifier.from_pretrained(folder)


def test_a_pickle_is_never_opened(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("echo a pickle ran",)

    torch.save(Bomb(), folder / "weights.safetensors")
    sentence = re.escape(
        f"{folder}/weights.safetensors: is not a safetensors file, or is cut short."
    )
    with pytest.raises(CheckpointError, match=f"^{sentence}$"):
        Purifier.from_pretrained(folder)
    assert capfd.readouterr().out == ""


def test_a_recogniser_is_no_purifier(tmp_path: Path) -> None:
    extra = {
        "role": "recogniser",
        "labels": ["angry", "sad"],
        "scale": {"top_db": 1.0},
        "front_end": {},
    }
    save_network(VGG16(2, 1), tmp_path / "target", extra=extra)
    sentence = (
        f"{tmp_path}/target: holds a recogniser, expected a purifier written by "
        "Purifier.save_pretrained."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        Purifier.from_pretrained(tmp_path / "target")


@pytest.mark.parametrize(
    "name", ["./ssad", "/nowhere/ssad", "ssad", "runs/demo/ssad", "~/ssad-of-nobody", "a b/c", "a/"]
)
def test_a_missing_folder_is_said(name: str) -> None:
    sentence = (
        f"{name}: no such folder; expected one written by Purifier.save_pretrained, a hub id such "
        f"as user/name, or a packaged purifier ({', '.join(names('purifier'))})."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        Purifier.from_pretrained(name)


def test_a_folder_in_the_way_of_a_file(purifier: Purifier, tmp_path: Path) -> None:
    (tmp_path / "ssad").write_text("in the way", encoding="utf-8")
    sentence = f"{tmp_path}/ssad: cannot be written (File exists)."
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        purifier.save_pretrained(tmp_path / "ssad")


ASK_THE_HUB = """
import time
from servax.errors import CheckpointError
from servax.purifier import Purifier
start = time.monotonic()
try:
    Purifier.from_pretrained("nobody/nothing")
except CheckpointError as error:
    print(error)
assert time.monotonic() - start < 5
"""


def test_a_hub_id_without_a_network(tmp_path: Path) -> None:
    """In a fresh process, since huggingface_hub reads its environment once."""
    here = Path(servax.__file__).parents[1]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(here),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK_THE_HUB],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    sentence = "nobody/nothing: is no folder here, and the Hugging Face hub cannot be reached."
    assert done.stdout.splitlines() == [sentence]
