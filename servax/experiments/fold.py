"""What all folds of a run share, and the trainings of one fold and seed, as tasks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from servax.corpora import Corpus, Fold, cache_folder, load
from servax.errors import ServaxError, unwritable
from servax.experiments.recipe import Recipe
from servax.experiments.training import (
    START,
    Parts,
    epochs_note,
    fold_parts,
    start_adversarial,
    train_adversarial,
    train_purifier,
    train_recogniser,
)
from servax.features import Features, FrontEnd, extract
from servax.kinds import stored
from servax.models import NetworkName
from servax.purifier import PurifierTraining, SurrogateTraining
from servax.recognition import MODEL, Recogniser
from servax.stages import Stage, Task, Watcher, make_stage
from servax.training import Fitted, RecogniserTraining, derive, epoch_order

# Expected cost of one step against one training step of the recogniser: for the time estimate only.
COST_SSA_STEP = 0.5
COST_PURIFIER_STEP = 3.5
COST_GRADIENT = 0.7
COST_TWO_INPUTS = 2.0


@dataclass(frozen=True)
class RunData:
    """What all folds of a run share."""

    recipe: Recipe
    folder: Path
    corpus: Corpus
    folds: list[Fold]
    features: Features
    content: str
    """Hash of what is heard and how it is labelled; names alone would not show an edit.

    It is the same on every machine, so that machines which share a run find each other's stages.
    """

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, watcher: Watcher) -> RunData:
        """Return what a recipe's folds share, computing features that are not in the cache.

        Nothing is written into `folder`.

        Raises:
            ServaxError: The corpus is not there, or a file cannot be read or written.
        """
        recipe.compute.resolve()  # said now, not when the features have been computed
        choice = recipe.corpus
        corpus = load(choice.name, choice.root, scheme=choice.scheme, seed=choice.seed)
        folds = corpus.folds(recipe.groups)
        recipe.folds(len(folds))  # a group that this corpus has not is refused at once
        cached = True

        def advance(done: int, total: int) -> None:
            nonlocal cached
            cached = False
            watcher.advance(f"{done}/{total} utterances")

        watcher.start("features", len(corpus))
        features = extract(
            corpus,
            FrontEnd(recipe.front_end),
            folder=cache_folder() / "features",
            progress=advance,
        )
        watcher.finish("features", cached=cached)
        return cls(recipe, folder, corpus, folds, features, _digest(corpus, features))

    def save_folds(self) -> None:
        """Write down who trains, validates and tests in each fold.

        Raises:
            ServaxError: The folder cannot be written.
        """
        folder = self.folder / "folds"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServaxError(f"{folder}: {unwritable(error)}.") from None
        for index in self.held_out:
            self.folds[index].save(folder / f"fold-{index + 1}.json")

    @property
    def held_out(self) -> tuple[int, ...]:
        """Numbers of the folds that are run, from 0."""
        return self.recipe.folds(len(self.folds))

    def parts(self, index: int) -> Parts:
        """Return the datasets of a fold, scaled on its training speakers."""
        r = self.recipe
        return fold_parts(
            self.folds[index], self.features, r.front_end, window_db=r.window_db, scale=r.scale
        )

    def training_steps(
        self, index: int, training: RecogniserTraining | PurifierTraining | SurrogateTraining
    ) -> int:
        """Return the steps of a training that runs all its epochs."""
        return training.epochs * self.steps_per_epoch(index, training.batch_size)

    def steps_per_epoch(self, index: int, batch_size: int) -> int:
        """Return how many batches the training part of a fold gives."""
        return len(epoch_order(len(self.folds[index].train), batch_size, seed=0, epoch=0))

    def stage_name(self, index: int, seed: int, kind: str) -> str:
        """Return how a stage is called before people."""
        several = f", seed {seed}" if len(self.recipe.seeds) > 1 else ""
        return f"fold {index + 1}{several}: {kind}"


class FoldTraining:
    """The trainings of one fold and seed, as tasks.

    Args:
        data: What all folds share.
        index: Number of the fold, from 0.
        seed: Seed of the run.
    """

    def __init__(self, data: RunData, index: int, seed: int) -> None:
        self.p, self.index, self.seed = data, index, seed
        self.recipe = data.recipe
        self.parts = data.parts(index)
        self.shared = {
            "fold": data.folds[index].hash,
            "content": data.content,
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
        work = partial(train_recogniser, self.parts, r.width, r.recogniser, network=network)
        steps = self.p.training_steps(self.index, r.recogniser)
        return self._task(role, settings, work, seed=seed, steps=steps, epochs=r.recogniser.epochs)

    def _purifier(self, name: str) -> Task:
        r, extractor = self.recipe, self.extractor.stage
        network, training = r.chosen[name].network, r.chosen[name].training
        seed = derive(self.seed, "purifier", self.index)
        settings = {
            "network": asdict(network),
            "training": stored(training),
            "discriminator": asdict(r.discriminator),
            "extractor": extractor.key,
            "seed": seed,
        }

        def work(**given: Any) -> Fitted:
            found = Recogniser.from_pretrained(extractor.folder / MODEL).extractor
            return train_purifier(self.parts, found, network, training, r.discriminator, **given)

        return self._task(
            name,
            settings,
            work,
            seed=seed,
            steps=self.p.training_steps(self.index, training),
            each=COST_PURIFIER_STEP + COST_SSA_STEP * training.ssa.steps,
            epochs=training.epochs,
            needs=(extractor,),
        )

    def _adversarial(self) -> tuple[Task | None, dict[str, Task]]:
        """Return the plain start that all adversarial trainings share, and the trainings."""
        r, models = self.recipe, self.recipe.adversarial.models()
        if not models:
            return None, {}
        training = r.adversarial.training
        seed = derive(self.seed, "adversarial", self.index)
        settings = {"width": r.width, "training": asdict(training), "seed": seed}
        work = partial(start_adversarial, self.parts, r.width, training)
        plain, rest = training.plain_iterations, training.iterations - training.plain_iterations

        def epochs(steps: int) -> int:
            return math.ceil(steps / self.p.steps_per_epoch(self.index, training.batch_size))

        start = self._task(
            "adversarial-start", settings, work, seed=seed, steps=plain, epochs=epochs(plain)
        )
        trained = {
            name: self._task(
                name,
                {"objective": asdict(objective), "start": start.stage.key},
                partial(
                    train_adversarial,
                    self.parts,
                    r.width,
                    objective,
                    training,
                    start=start.stage.folder / START,
                ),
                seed=seed,
                steps=rest,
                each=COST_TWO_INPUTS + COST_GRADIENT * getattr(objective, "steps", 1),
                epochs=epochs(rest),
                needs=(start.stage,),
            )
            for name, objective in models.items()
        }
        return start, trained

    def _task(
        self,
        kind: str,
        settings: Mapping[str, Any],
        train: Callable[..., Fitted],
        *,
        seed: int,
        steps: int,
        epochs: int,
        each: float = 1.0,
        needs: tuple[Stage, ...] = (),
    ) -> Task:
        """Return a training as a task; `train` is told what all trainings are told alike."""

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            fitted = train(
                folder=stage.folder,
                seed=seed,
                settings=stage.settings,
                compute=self.recipe.compute,
                progress=lambda p: watcher.advance(epochs_note(p)),
            )
            return asdict(fitted)

        stage = self.stage(kind, settings)
        return Task(stage, "train", needs, steps, steps * each, work, epochs)


def _digest(corpus: Corpus, features: Features) -> str:
    digest = hashlib.blake2b(digest_size=32)
    table = corpus.utterances
    for row in zip(
        table["utterance"], table["label"], table["speaker"], table["gender"], strict=True
    ):
        digest.update(json.dumps([str(cell) for cell in row]).encode())
    digest.update(features.recordings.encode())
    return digest.hexdigest()
