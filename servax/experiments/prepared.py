"""What all folds of a run share: recipe, corpus, folds, features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from servax.corpora import Corpus, Fold, cache_folder, load
from servax.errors import ServaxError, unwritable
from servax.experiments.recipe import Recipe
from servax.experiments.training import Parts, fold_parts
from servax.features import Features, FrontEnd, extract
from servax.purifier import PurifierTraining, SurrogateTraining
from servax.stages import Watcher
from servax.training import RecogniserTraining, epoch_order


@dataclass(frozen=True)
class Prepared:
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
    def of(cls, recipe: Recipe, folder: Path, watcher: Watcher) -> Prepared:
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


def _digest(corpus: Corpus, features: Features) -> str:
    digest = hashlib.blake2b(digest_size=32)
    table = corpus.utterances
    for row in zip(
        table["utterance"], table["label"], table["speaker"], table["gender"], strict=True
    ):
        digest.update(json.dumps([str(cell) for cell in row]).encode())
    digest.update(features.recordings.encode())
    return digest.hexdigest()
