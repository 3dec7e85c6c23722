"""A run is made of stages, each kept in a folder named by the hash of all that decides its result.

``<run>/stages/<kind>-<hash>/done.json`` is written last, in one step: a stage without it is not
done, whatever else its folder holds, and is continued from its checkpoint or started again. A
second run with the same settings finds every stage done and computes nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from servax.errors import ServaxError, unwritable
from servax.files import whole_file
from servax.training import CHECKPOINT

DONE = "done.json"
"""Says that a stage is done, and what it came to."""
STAGES = "stages"
"""Folder of all stages, in that of the run."""


class Watcher:
    """Who is told how far a run is: this one says nothing, the command line draws bars."""

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        """Take the stages to come, with their expected cost in any one unit."""

    def start(self, stage: str, steps: int) -> None:
        """Take note that a stage begins, which will advance at most `steps` times."""

    def advance(self, note: str = "") -> None:
        """Take note of one step of the current stage."""

    def finish(self, stage: str, *, cached: bool) -> None:
        """Take note that a stage ended, or was found done."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: where its result is, and all that decides it."""

    name: str
    """For people: `fold 1: target`."""
    folder: Path
    """Where its result is, or will be."""
    settings: str
    """JSON of all that decides its result."""

    @property
    def key(self) -> str:
        """Hash of the settings; part of the settings of stages that build on this one."""
        return hashlib.sha256(self.settings.encode()).hexdigest()

    def result(self) -> dict[str, Any] | None:
        """Return what the stage came to, or none when it is not done."""
        try:
            done = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(done, dict) or done.get("settings") != self.settings:
            return None
        result = done.get("result")
        return result if isinstance(result, dict) else None

    def seconds(self) -> float | None:
        """Return how long the work of a done stage took, or none when that is not known."""
        return self._told("seconds")

    def advanced(self) -> float | None:
        """Return how often it advanced in that time, or none when that is not known."""
        return self._told("advanced")

    def _told(self, name: str) -> float | None:
        try:
            told = json.loads((self.folder / DONE).read_text(encoding="utf-8"))[name]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return float(told) if isinstance(told, int | float) else None

    def complete(
        self,
        result: Mapping[str, Any],
        *,
        seconds: float | None = None,
        advanced: int | None = None,
    ) -> dict[str, Any]:
        """Write down that the stage is done, in one step, and return its result.

        Args:
            result: What it came to.
            seconds: How long its work took since it was last begun; no part of the result.
            advanced: How often it advanced in that time; less than all steps in a training that
                stopped early or went on from a checkpoint.
        """
        done = {"settings": self.settings, "result": dict(result)}
        text = json.dumps(done | {"seconds": seconds, "advanced": advanced}, indent=1)
        try:
            with whole_file(self.folder / DONE) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from None
        return dict(result)

    def open(self) -> None:
        """Make the folder.

        Raises:
            ServaxError: It cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ServaxError:
        return ServaxError(f"{self.folder}: {unwritable(error)}.")


def make_stage(run: Path, kind: str, name: str, settings: Mapping[str, Any]) -> Stage:
    """Return the stage of a run for one kind of work with given settings."""
    text = json.dumps({"kind": kind, **settings}, sort_keys=True, default=list)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Stage(name, run / STAGES / f"{kind}-{key[:16]}", text)


class _Counter(Watcher):
    """Passes on what the work of a stage tells, and counts."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self.count = watcher, 0

    def advance(self, note: str = "") -> None:
        """Count one step."""
        self.count += 1
        self._watcher.advance(note)


Work = Callable[[Stage, Watcher], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """A stage with the work that completes it."""

    stage: Stage
    kind: Literal["train", "attack"]
    """Which share of a machine it takes."""
    needs: tuple[Stage, ...]
    """Stages whose results it reads."""
    steps: int
    """How often its work advances at most."""
    cost: float
    """Expected cost, in training steps of the recogniser."""
    work: Work
    epochs: int = 1
    """Of a training, at most: so many lines has its log."""

    def perform(self, watcher: Watcher) -> dict[str, Any]:
        """Return the result of the stage, doing its work only when it is not done yet."""
        stage = self.stage
        result = stage.result()
        if result is not None:
            watcher.finish(stage.name, cached=True)
            return result
        watcher.start(stage.name, self.steps)
        stage.open()
        began, counter = time.monotonic(), _Counter(watcher)
        found = self.work(stage, counter)
        seconds = round(time.monotonic() - began, 2)
        result = stage.complete(found, seconds=seconds, advanced=counter.count)
        # Nothing goes on from here, and a checkpoint is four times as large as the weights.
        (stage.folder / CHECKPOINT).unlink(missing_ok=True)
        watcher.finish(stage.name, cached=False)
        return result
