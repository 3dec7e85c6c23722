"""The trainings of one fold and seed: target, extractor, purifiers, adversarial recognisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from servax.defences.adversarial import Objective
from servax.experiments.adversarial import START, start_adversarial, train_adversarial
from servax.experiments.prepared import Prepared
from servax.experiments.training import epochs_note, train_purifier, train_recogniser
from servax.kinds import stored
from servax.models import NetworkName
from servax.recognition import MODEL, Recogniser
from servax.stages import Stage, Task, Watcher, make_stage
from servax.training import Progress, derive

# Expected cost of one step against one training step of the recogniser: for the time estimate only.
COST_SSA_STEP = 0.5
COST_PURIFIER_STEP = 3.5
COST_GRADIENT = 0.7
COST_TWO_INPUTS = 2.0


class FoldTraining:
    """The trainings of one fold and seed, as tasks.

    Args:
        prepared: What all folds share.
        index: Number of the fold, from 0.
        seed: Seed of the run.
    """

    def __init__(self, prepared: Prepared, index: int, seed: int) -> None:
        self.p, self.index, self.seed = prepared, index, seed
        self.recipe = prepared.recipe
        self.parts = prepared.parts(index)
        self.shared = {
            "fold": prepared.folds[index].hash,
            "content": prepared.content,
            "corpus": asdict(self.recipe.corpus) | {"root": None},
            "front_end": asdict(self.recipe.front_end),
            "scale": asdict(self.parts.scale.settings),
            "compute": asdict(self.recipe.compute),
        }
        self.target = self._recogniser("target")
        self.extractor = self._recogniser("extractor")
        self.purifiers = {name: self._purifier(name) for name in self.recipe.chosen}
        self.start, self.adversarial = self._adversarial()

    @property
    def tasks(self) -> list[Task]:
        """The trainings in an order in which each finds what it needs."""
        start = [self.start] if self.start else []
        first = [self.target, self.extractor, *self.purifiers.values()]
        return [*first, *start, *self.adversarial.values()]

    @property
    def networks(self) -> dict[str, Task]:
        """The trainings that leave a network, by its name."""
        named = {"target": self.target, "extractor": self.extractor}
        return {**named, **self.purifiers, **self.adversarial}

    def stage(self, kind: str, settings: Mapping[str, Any]) -> Stage:
        """Return the stage of this fold for one kind of work with given settings."""
        name = self.p.stage_name(self.index, self.seed, kind)
        return make_stage(self.p.folder, kind, name, {**self.shared, **settings})

    def _recogniser(self, role: str) -> Task:
        r = self.recipe
        seed = derive(self.seed, role, self.index)
        network: NetworkName = r.network if role == "target" else "vgg16"
        settings = {"width": r.width, "training": asdict(r.recogniser), "seed": seed}
        if network != "vgg16":
            # The default is not named: results that were made before there were others stay valid.
            settings["network"] = network
        stage = self.stage(role, settings)

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            return asdict(
                train_recogniser(
                    self.parts,
                    r.width,
                    r.recogniser,
                    stage.folder,
                    network=network,
                    **self._with(stage, seed, watcher),
                )
            )

        steps = self.p.training_steps(self.index, r.recogniser)
        return Task(stage, "train", (), steps, float(steps), work, r.recogniser.epochs)

    def _purifier(self, name: str) -> Task:
        r, extractor = self.recipe, self.extractor.stage
        network, training = r.chosen[name].network, r.chosen[name].training
        seed = derive(self.seed, "purifier", self.index)
        stage = self.stage(
            name,
            {
                "network": asdict(network),
                "training": stored(training),
                "discriminator": asdict(r.discriminator),
                "extractor": extractor.key,
                "seed": seed,
            },
        )

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            return asdict(
                train_purifier(
                    self.parts,
                    Recogniser.from_pretrained(extractor.folder / MODEL).extractor,
                    network,
                    training,
                    r.discriminator,
                    stage.folder,
                    **self._with(stage, seed, watcher),
                )
            )

        steps = self.p.training_steps(self.index, training)
        each = COST_PURIFIER_STEP + COST_SSA_STEP * training.ssa.steps
        return Task(stage, "train", (extractor,), steps, steps * each, work, training.epochs)

    def _adversarial(self) -> tuple[Task | None, dict[str, Task]]:
        """Return the plain start that all adversarial trainings share, and the trainings."""
        r = self.recipe
        models = r.adversarial.models()
        if not models:
            return None, {}
        training = r.adversarial.training
        seed = derive(self.seed, "adversarial", self.index)
        plain = {"width": r.width, "training": asdict(training), "seed": seed}
        stage = self.stage("adversarial-start", plain)

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            return asdict(
                start_adversarial(
                    self.parts, r.width, training, stage.folder, **self._with(stage, seed, watcher)
                )
            )

        steps = training.plain_iterations
        start = Task(stage, "train", (), steps, float(steps), work, self._chunks(steps))
        trained = {
            name: self._adversarial_model(name, objective, start.stage, seed)
            for name, objective in models.items()
        }
        return start, trained

    def _adversarial_model(self, name: str, objective: Objective, start: Stage, seed: int) -> Task:
        r = self.recipe
        training = r.adversarial.training
        stage = self.stage(name, {"objective": asdict(objective), "start": start.key})

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            return asdict(
                train_adversarial(
                    self.parts,
                    r.width,
                    objective,
                    training,
                    stage.folder,
                    start=start.folder / START,
                    **self._with(stage, seed, watcher),
                )
            )

        steps = training.iterations - training.plain_iterations
        inner = getattr(objective, "steps", 1)
        cost = steps * (COST_TWO_INPUTS + COST_GRADIENT * inner)
        return Task(stage, "train", (start,), steps, cost, work, self._chunks(steps))

    def _chunks(self, steps: int) -> int:
        """Return the epochs that the steps of an adversarial training make."""
        batch_size = self.recipe.adversarial.training.batch_size
        return math.ceil(steps / self.p.steps_per_epoch(self.index, batch_size))

    def _with(self, stage: Stage, seed: int, watcher: Watcher) -> dict[str, Any]:
        """Return what every training is given in the same way."""

        def progress(p: Progress) -> None:
            watcher.advance(epochs_note(p))

        return {
            "seed": seed,
            "settings": stage.settings,
            "compute": self.recipe.compute,
            "progress": progress,
        }
