"""What all folds of a run share, and the trainings of one fold and seed, as tasks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from servax.corpora import Corpus, Fold, cache_folder, load
from servax.experiments.recipe import Experiment, Recipe
from servax.experiments.training import (
    START,
    Session,
    epochs_note,
    fold_parts,
    start_adversarial,
    train_adversarial,
    train_purifier,
    train_recogniser,
)
from servax.features import Features, extract
from servax.kinds import stored
from servax.models import NetworkName
from servax.recognition import MODEL, Recogniser
from servax.stages import Stage, Task, Watcher, make_stage
from servax.training import Fitted, Progress, derive, epoch_order

# Expected cost of one step against one training step of the recogniser: for the time estimate only.
COST_SSA_STEP = 0.5
COST_PURIFIER_STEP = 3.5
COST_GRADIENT = 0.7
COST_TWO_INPUTS = 2.0


Said = TypeVar("Said", bound=Experiment)
"""Which kind of recipe."""


@dataclass(frozen=True)
class RunData(Generic[Said]):
    """What all folds of a run share."""

    recipe: Said
    folder: Path
    corpus: Corpus
    folds: list[Fold]
    hearing: Any
    """What computes the features: a front-end, or a speech encoder."""
    features: Features
    content: str
    """Hash of what is heard and how it is labelled; names alone would not show an edit.

    It is the same on every machine, so that machines which share a run find each other's stages.
    """

    @classmethod
    def of(cls, recipe: Said, folder: Path, watcher: Watcher) -> RunData[Said]:
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

        hearing = recipe.hearing()
        watcher.start("features", len(corpus))
        features = extract(corpus, hearing, folder=cache_folder() / "features", progress=advance)
        watcher.finish("features", cached=cached)
        return cls(recipe, folder, corpus, folds, hearing, features, _digest(corpus, features))

    def fold_name(self, index: int, seed: int) -> str:
        """Return what a fold is called before people: `fold 1`, with its seed among several."""
        several = len(self.recipe.seeds) > 1
        return f"fold {index + 1}" + (f", seed {seed}" if several else "")

    def save_folds(self) -> None:
        """Write down who trains, validates and tests in each fold.

        Raises:
            ServaxError: The folder cannot be written.
        """
        for index in self.held_out:
            self.folds[index].save(self.folder / "folds" / f"fold-{index + 1}.json")

    @property
    def held_out(self) -> tuple[int, ...]:
        """Numbers of the folds that are run, from 0."""
        return self.recipe.folds(len(self.folds))


class FoldTraining:
    """The trainings of one fold and seed, as tasks.

    Args:
        data: What all folds share.
        index: Number of the fold, from 0.
        seed: Seed of the run.
    """

    def __init__(self, data: RunData[Recipe], index: int, seed: int) -> None:
        self.data, self.index, self.seed = data, index, seed
        self.recipe = r = data.recipe
        self.parts = fold_parts(
            data.folds[index], data.features, r.front_end, window_db=r.window_db, scale=r.scale
        )
        self.shared = {
            "fold": data.folds[index].hash,
            "content": data.content,
            "corpus": asdict(self.recipe.corpus) | {"root": None},
            "front_end": asdict(self.recipe.front_end),
            "scale": asdict(self.parts.scale.settings),
            "compute": asdict(self.recipe.compute),
        }
        self.name = file_name(data.fold_name(index, seed))
        """Of its files."""
        self.target = self._recogniser("target")
        self.extractor = self._recogniser("extractor")
        self.purifiers = {name: self._purifier(name) for name in self.recipe.chosen}
        self.start, self.adversarial = self._adversarial()

    @property
    def trainings(self) -> list[Task]:
        """All of them, in an order in which each finds what it needs."""
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
        name = f"{self.data.fold_name(self.index, self.seed)}: {kind}"
        return make_stage(self.data.folder, kind, name, {**self.shared, **settings})

    def _recogniser(self, role: str) -> Task:
        r = self.recipe
        network: NetworkName = r.network if role == "target" else "vgg16"
        seed = derive(self.seed, role, self.index)
        settings = {"width": r.width, "training": asdict(r.recogniser), "seed": seed}
        if network != "vgg16":
            # The default is not named: results that were made before there were others stay valid.
            settings["network"] = network

        train = partial(
            train_recogniser,
            parts=self.parts,
            training=r.recogniser,
            width=r.width,
            network=network,
        )
        return self._task(role, settings, train, r.recogniser, seed)

    def _purifier(self, name: str) -> Task:
        r, extractor, preset = self.recipe, self.extractor.stage, self.recipe.chosen[name]
        seed = derive(self.seed, "purifier", self.index)
        settings = {
            "network": asdict(preset.network),
            "training": stored(preset.training),
            "discriminator": asdict(r.discriminator),
            "extractor": extractor.key,
            "seed": seed,
        }

        def train(session: Session) -> Fitted:
            found = Recogniser.from_pretrained(extractor.folder / MODEL).extractor
            return train_purifier(session, self.parts, found, preset, r.discriminator)

        return self._task(
            name,
            settings,
            train,
            preset.training,
            seed,
            each=COST_PURIFIER_STEP + COST_SSA_STEP * preset.training.ssa.steps,
            needs=(extractor,),
        )

    def _adversarial(self) -> tuple[Task | None, dict[str, Task]]:
        """Return the plain start that all adversarial trainings share, and the trainings."""
        objectives, training = self.recipe.adversarial.models(), self.recipe.adversarial.training
        if not objectives:
            return None, {}
        width, seed = self.recipe.width, derive(self.seed, "adversarial", self.index)
        given: dict[str, Any] = {"parts": self.parts, "training": training, "width": width}
        plain, rest = training.plain_iterations, training.iterations - training.plain_iterations

        start = self._task(
            "adversarial-start",
            {"width": width, "training": asdict(training), "seed": seed},
            partial(start_adversarial, **given),
            training,
            seed,
            steps=plain,
        )
        given["start"] = start.stage.folder / START
        trained = {
            name: self._task(
                name,
                {"objective": asdict(objective), "start": start.stage.key},
                partial(train_adversarial, objective=objective, **given),
                training,
                seed,
                steps=rest,
                each=COST_TWO_INPUTS + COST_GRADIENT * getattr(objective, "steps", 1),
                needs=(start.stage,),
            )
            for name, objective in objectives.items()
        }
        return start, trained

    def _task(
        self,
        kind: str,
        settings: Mapping[str, Any],
        train: Callable[[Session], Fitted],
        training: Any,
        seed: int,
        *,
        steps: int | None = None,
        each: float = 1.0,
        needs: tuple[Stage, ...] = (),
    ) -> Task:
        """Return a training as a task; it takes all epochs of its settings, or so many `steps`."""
        in_epoch = len(epoch_order(len(self.parts.train), training.batch_size, seed=0, epoch=0))
        most = training.epochs * in_epoch if steps is None else steps

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            def progress(at: Progress) -> None:
                watcher.advance(epochs_note(at))

            compute = self.recipe.compute
            return asdict(train(Session(stage.folder, seed, stage.settings, compute, progress)))

        epochs, cost = math.ceil(most / in_epoch), most * each
        return Task(self.stage(kind, settings), "train", needs, most, cost, work, epochs)


def file_name(fold: str) -> str:
    """Return what the files of a fold are called: `fold-1-seed-7`."""
    return fold.replace(", ", "-").replace(" ", "-")


def _digest(corpus: Corpus, features: Features) -> str:
    digest = hashlib.blake2b(digest_size=32)
    table = corpus.utterances
    for row in zip(
        table["utterance"], table["label"], table["speaker"], table["gender"], strict=True
    ):
        digest.update(json.dumps([str(cell) for cell in row]).encode())
    digest.update(features.recordings.encode())
    return digest.hexdigest()
