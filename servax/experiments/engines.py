"""Who performs the stages of a run: this process here, a cluster in `ray_engine`."""

from __future__ import annotations

from typing import Protocol

import torch

from servax.experiments.choices import Resources
from servax.experiments.plan import Plan
from servax.experiments.stages import Task, Watcher
from servax.experiments.storage import Storage


class Engine(Protocol):
    """Who performs the stages of a run."""

    def perform(self, plan: Plan, storage: Storage, watcher: Watcher) -> None:
        """Complete every stage of a plan that is not done yet, and bring all results here."""


class LocalEngine:
    """Performs the stages in this process, one after another."""

    def perform(self, plan: Plan, storage: Storage, watcher: Watcher) -> None:
        """Complete every stage of a plan that is not done yet, and bring all results here."""
        for task in plan.tasks:
            perform_here(task, plan.prepared.recipe.resources, watcher, storage)


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
