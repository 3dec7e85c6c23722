"""Who performs the stages of a plan: this process here, a cluster in `ray_engine`."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch

from servax.errors import SettingError
from servax.stages.stage import Task, Watcher
from servax.stages.storage import Storage


@dataclass(frozen=True)
class Share:
    """What one stage takes of a machine."""

    cpus: int | None = None
    """Threads of the stage, and CPUs it takes of a cluster; none: all here, one on a cluster."""
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
    here and on a cluster, need the same `cpus` in both.
    """

    train: Share = field(default_factory=Share)
    """Of each training."""
    attack: Share = field(default_factory=Share)
    """Of each attack with its scoring."""
    retries: int = 3
    """How often a stage is begun again elsewhere when its machine is lost."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise SettingError("retries", self.retries, "a whole number of at least 0")

    def of(self, kind: Literal["train", "attack"]) -> Share:
        """Return what a stage of one kind takes."""
        return self.train if kind == "train" else self.attack


class Plan(Protocol):
    """Stages that belong together, and what they take of a machine."""

    @property
    def tasks(self) -> Sequence[Task]:
        """All stages, in an order in which each finds what it needs."""

    @property
    def resources(self) -> Resources:
        """What they take of a machine."""

    @property
    def device(self) -> str:
        """Where they compute: `cpu`, `cuda`, …."""

    def order(self) -> Order:
        """Return the plan as text."""


class Order(Hashable, Protocol):
    """A plan as text, which travels to other machines and becomes the plan again there.

    Orders can be hashed: a process makes the plan of one only once.
    """

    def plan(self, folder: Path) -> Plan:
        """Return the plan, with its stages in `folder`."""


class Engine(Protocol):
    """Who performs the stages of a plan."""

    def perform(self, plan: Plan, storage: Storage, watcher: Watcher) -> None:
        """Complete every stage of a plan that is not done yet, and bring all results here."""


class LocalEngine:
    """Performs the stages in this process, one after another."""

    def perform(self, plan: Plan, storage: Storage, watcher: Watcher) -> None:
        """Complete every stage of a plan that is not done yet, and bring all results here."""
        for task in plan.tasks:
            perform_here(task, plan.resources, watcher, storage)


def perform_here(task: Task, resources: Resources, watcher: Watcher, storage: Storage) -> None:
    """Perform one stage in this process, with as many threads as its share of a machine says.

    Args:
        task: The stage; those it needs are done.
        resources: What stages take of a machine.
        watcher: Is told how far the stage is.
        storage: Where the run lies; what the stage needs comes from there, its result goes there.
    """
    share = resources.of(task.kind)
    threads = torch.get_num_threads()
    storage.fetch(task.stage)
    if task.stage.result() is None:
        for need in task.needs:
            storage.fetch(need)
    try:
        if share.cpus is not None:
            torch.set_num_threads(share.cpus)
        task.perform(watcher)
    finally:
        torch.set_num_threads(threads)
    storage.push(task.stage)
