"""Training logs: one flat dict per epoch, as a JSON line and to TensorBoard.

A log is opened at the epoch a run resumes from; lines of later epochs, which a killed run may have
written after its last checkpoint, are dropped so that no epoch stands twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from servax.errors import CheckpointError, unwritable
from servax.files import json_text, whole_file

LOG_NAME = "log.jsonl"


class TrainingLog:
    """Appends the terms of each epoch to ``log.jsonl`` and ``tensorboard/`` in a folder.

    Raises:
        CheckpointError: A file cannot be written.
    """

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        self.path = folder / LOG_NAME
        kept = [line for line in read_log(self.path) if line["epoch"] < first_epoch]
        text = "".join(json_text(line, indent=None) + "\n" for line in kept)
        with self._refusing():
            (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as part:
                part.write_text(text, encoding="utf-8")
            # Not SummaryWriter, whose thread dies on a full disk and leaves the training waiting.
            self._tensorboard = EventsWriter(str(folder / "tensorboard" / "events"))
            # A kill loses what TensorBoard had not written yet, so the kept epochs are told anew.
            self._event(step=0, session_log=SessionLog(status=SessionLog.START))
            for line in kept:
                self._tell_tensorboard(line)

    def write(self, epoch: int, terms: Mapping[str, float]) -> None:
        """Append the terms of one epoch.

        Raises:
            CheckpointError: A file cannot be written.
        """
        with self._refusing():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json_text({"epoch": epoch, **terms}, indent=None) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._tell_tensorboard({"epoch": epoch, **terms})

    def _tell_tensorboard(self, line: Mapping[str, float]) -> None:
        for name, value in line.items():
            if name != "epoch":
                self._event(step=int(line["epoch"]), summary=scalar(name, value))
        self._tensorboard.flush()

    def _event(self, **content: Any) -> None:
        self._tensorboard.write_event(Event(wall_time=time.time(), **content))

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(self.path, unwritable(error)) from None

    def close(self) -> None:
        """Close the files; every epoch was flushed, and what is left has been refused."""
        with suppress(OSError):
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
        # JSON has no word for NaN, so a term that was none is null.
        lines.append({name: math.nan if each is None else each for name, each in line.items()})
    return lines
