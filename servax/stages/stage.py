"""A run is made of stages, each kept in a folder named by the hash of all that decides its result.

``<run>/stages/<kind>-<hash>/done.json`` is written last, in one step: a stage without it is not
done, whatever else its folder holds, and is continued from its checkpoint or started again. A
second run with the same settings finds every stage done and computes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from servax.errors import ServaxError, SettingError, unwritable
from servax.files import whole_file
from servax.kinds import NUMBER, Rules, check_types
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

    def advance(self, note: str = "", stage: str | None = None) -> None:
        """Take note of one step of a stage, by default of the one that began last."""

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

    def told(self, text: str | bytes) -> dict[str, Any] | None:
        """Return what a ``done.json`` says, or none where it says that another stage is done."""
        try:
            done = json.loads(text)
        except ValueError:
            return None
        same = isinstance(done, dict) and done.get("settings") == self.settings
        return done if same and isinstance(done.get("result"), dict) else None

    def done(self) -> dict[str, Any]:
        """Return ``result``, ``seconds`` and ``advanced`` of a done stage; nothing of another."""
        try:
            return self.told((self.folder / DONE).read_bytes()) or {}
        except OSError:
            return {}

    def result(self) -> dict[str, Any] | None:
        """Return what the stage came to, or none when it is not done."""
        result: dict[str, Any] | None = self.done().get("result")
        return result

    def seconds(self) -> float | None:
        """Return how long the work of a done stage took, or none when that is not known."""
        seconds: float | None = self.done().get("seconds")
        return seconds

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


@dataclass(frozen=True)
class Share:
    """What one stage takes of a machine."""

    cpus: int | None = None
    """Threads of the stage, and CPUs of a cluster; none: all where stages are performed one
    after another, one where they are performed side by side."""
    gpus: float = 0.0
    """GPUs it takes of a cluster; below 1, stages share one."""

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus < 1:
            raise SettingError("cpus", self.cpus, "a whole number of at least 1, or null")
        whole = float(self.gpus).is_integer()
        if not (math.isfinite(self.gpus) and self.gpus >= 0 and (self.gpus < 1 or whole)):
            raise SettingError("gpus", self.gpus, "a share in [0, 1) or a whole number")


@dataclass(frozen=True)
class Resources:
    """What the stages of a run take; says nothing about their results on one kind of machine.

    Sums in another number of threads round otherwise: results that must be equal bit for bit,
    alone, side by side and on a cluster, need the same `cpus` everywhere.
    """

    train: Share = field(default_factory=Share)
    """Of each training."""
    attack: Share = field(default_factory=Share)
    """Of each attack with its scoring."""
    retries: int = 3
    """How often a stage is begun again elsewhere when its machine is lost."""

    RULES: ClassVar[Rules] = {"retries": NUMBER}

    def __post_init__(self) -> None:
        check_types(self)

    def of(self, task: Task) -> Share:
        """Return what a stage takes."""
        return self.train if task.kind == "train" else self.attack


class _Counter(Watcher):
    """Passes on what the work of a stage tells, and counts."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self.count = watcher, 0

    def advance(self, note: str = "", stage: str | None = None) -> None:
        """Count one step."""
        self.count += 1
        self._watcher.advance(note, stage)


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
    work: Callable[[Stage, Watcher], Mapping[str, Any]]
    epochs: int = 1
    """Of a training, at most: so many lines has its log."""

    def perform(self, watcher: Watcher, *, threads: int | None = None) -> dict[str, Any]:
        """Return the result of the stage, doing its work only when it is not done yet.

        Args:
            watcher: Is told how far the stage is.
            threads: That the work may use; default as many as before.
        """
        stage, before = self.stage, torch.get_num_threads()
        result = stage.result()
        if result is not None:
            watcher.finish(stage.name, cached=True)
            return result
        watcher.start(stage.name, self.steps)
        stage.open()
        began, counter = time.monotonic(), _Counter(watcher)
        try:
            torch.set_num_threads(threads or before)
            found = self.work(stage, counter)
        finally:
            torch.set_num_threads(before)
        seconds = round(time.monotonic() - began, 2)
        result = stage.complete(found, seconds=seconds, advanced=counter.count)
        # Nothing goes on from here, and a checkpoint is four times as large as the weights.
        (stage.folder / CHECKPOINT).unlink(missing_ok=True)
        watcher.finish(stage.name, cached=False)
        return result
