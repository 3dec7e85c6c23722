"""Checkpoints of a training run: one file, written atomically, read without pickle's powers."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from servax.errors import CheckpointError, unwritable
from servax.files import remove_unfinished, whole_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) so that a kill leaves old or new.

    Raises:
        CheckpointError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(path, unwritable(error)) from None


def load_checkpoint(path: Path, *, settings: str) -> dict[str, Any] | None:
    """Return the state in `path`, or none when there is no checkpoint yet.

    Args:
        path: Written by `save_checkpoint`.
        settings: What the run would do now; a checkpoint of other settings is refused.

    Raises:
        CheckpointError: The file is broken or belongs to other settings.
    """
    remove_unfinished(path.parent)
    if not path.exists():
        return None
    state = _read(path)
    if not isinstance(state, dict) or state.get("settings") != settings:
        raise CheckpointError(
            path,
            "belongs to a run with other settings; choose another output folder, or delete it to "
            "start again",
        )
    return state


def _read(path: Path) -> Any:
    damaged = CheckpointError(
        path, "is not a training checkpoint, or is damaged; delete it to start again"
    )
    try:
        # torch.save writes a zip archive, whose checksums torch.load does not look at.
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None
    except Exception:  # a broken archive fails in zipfile in more ways than BadZipFile
        intact = False
    if not intact:
        raise damaged
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the file that the refusal makes needless
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # bytes that are not a checkpoint fail in torch.load in any way there is
        raise damaged from None
