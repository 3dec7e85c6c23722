from __future__ import annotations

import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from servax.errors import CheckpointError
from servax.training import load_checkpoint, save_checkpoint

DAMAGED = "is not a training checkpoint, or is damaged; delete it to start again."
FOREIGN = (
    "belongs to a run with other settings; choose another output folder, or delete it to start "
    "again."
)


def state(**changes: Any) -> dict[str, Any]:
    whole = {"settings": "a", "epoch": 3, "best": -math.inf, "training": {"w": torch.arange(64.0)}}
    return whole | changes


def sentence(path: Path, reason: str) -> str:
    return f"^{re.escape(f'{path}: {reason}')}$"


def test_comes_back_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    save_checkpoint(path, state())
    back = load_checkpoint(path, settings="a")
    assert back is not None
    assert torch.equal(back["training"].pop("w"), torch.arange(64.0))
    assert back == state(training={})
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_memory_layout_comes_back(tmp_path: Path) -> None:
    weights = torch.rand(3, 2, 4, 5).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "c.pt", state(training={"w": weights}))
    back = load_checkpoint(tmp_path / "c.pt", settings="a")
    assert back is not None
    assert back["training"]["w"].stride() == weights.stride()


def test_none_yet(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoint.pt", settings="a") is None


def test_a_kill_while_writing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(epoch=1))

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, state(epoch=2))
    monkeypatch.undo()
    back = load_checkpoint(path, settings="a")
    assert back is not None
    assert back["epoch"] == 1
    save_checkpoint(path, state(epoch=2))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=sentence(path, DAMAGED)):
            load_checkpoint(path, settings="a")


def test_flipped_bits_are_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state())
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 23):
        changed = bytearray(whole)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        try:
            back = load_checkpoint(path, settings="a")
        except CheckpointError as error:
            assert str(error) == f"{path}: {DAMAGED}"  # noqa: PT017  some bytes are padding
            refused += 1
        else:
            assert back is not None
            assert torch.equal(back["training"]["w"], torch.arange(64.0))
    assert refused > 10


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo a pickle ran",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"\x80\x02.",
        b"PK\x03\x04",
        pickle.dumps({"settings": "a"}),
        pickle.dumps(Bomb()),
        os.urandom(2048),
    ],
    ids=["empty", "text", "stack", "zip", "pickle", "bomb", "noise"],
)
def test_foreign_files_are_refused(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence(path, DAMAGED)):
        load_checkpoint(path, settings="a")
    assert capfd.readouterr().out == ""


def test_code_inside_a_checkpoint_is_never_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(state(training=Bomb()), path)
    with pytest.raises(CheckpointError, match=sentence(path, DAMAGED)):
        load_checkpoint(path, settings="a")
    assert capfd.readouterr().out == ""


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=sentence(tmp_path, DAMAGED)):
        load_checkpoint(tmp_path, settings="a")


@pytest.mark.parametrize("other", [state(settings="b"), {"epoch": 1}, [1, 2], torch.ones(2)])
def test_other_settings_are_refused(tmp_path: Path, other: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(other, path)
    with pytest.raises(CheckpointError, match=sentence(path, FOREIGN)):
        load_checkpoint(path, settings="a")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    path = tmp_path / "file" / "checkpoint.pt"
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: cannot be written \\("):
        save_checkpoint(path, state())
