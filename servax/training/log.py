"""Training logs: one flat dict per epoch, as a JSON line and to TensorBoard.

A log is opened at the epoch a run resumes from; lines of later epochs, which a killed run may have
written after its last checkpoint, are dropped so that no epoch stands twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

LOG_NAME = "log.jsonl"


class TrainingLog:
    """Appends the terms of each epoch to ``log.jsonl`` and ``tensorboard/`` in a folder."""

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG_NAME
        kept = [line for line in read_log(self.path) if line["epoch"] < first_epoch]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)
        # A kill loses what TensorBoard had not written yet, so the kept epochs are told anew.
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=0)
        for line in kept:
            self._tell_tensorboard(line)

    def write(self, epoch: int, terms: Mapping[str, float]) -> None:
        """Append the terms of one epoch."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **terms}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._tell_tensorboard({"epoch": epoch, **terms})

    def _tell_tensorboard(self, line: Mapping[str, float]) -> None:
        for name, value in line.items():
            if name != "epoch":
                self._tensorboard.add_scalar(name, value, int(line["epoch"]))
        self._tensorboard.flush()

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tensorboard.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the epochs of a log, up to the first line that is none: a kill cuts the last short."""
    lines: list[dict[str, float]] = []
    if not path.exists():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
            break
        lines.append(line)
    return lines
