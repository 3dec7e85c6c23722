"""What all folds of a run share: recipe, corpus, folds, features; and what each stage will cost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from servax.corpora import Corpus, Fold, load
from servax.corpora.folders import cache_folder
from servax.errors import ServaxError
from servax.evaluation.protocol import ticks
from servax.experiments.recipe import Recipe
from servax.experiments.stages import Watcher
from servax.experiments.training import Parts, fold_parts
from servax.features import Features, FrontEnd, extract
from servax.purifier import PurifierTraining
from servax.training import RecogniserTraining, epoch_order

# Expected cost of one step against one training step of the recogniser: for the time estimate only.
COST_SSA_STEP = 0.5
COST_PURIFIER_STEP = 3.5
COST_GRADIENT = 2.0


@dataclass(frozen=True)
class Prepared:
    """What all folds of a run share."""

    recipe: Recipe
    folder: Path
    corpus: Corpus
    folds: list[Fold]
    features: Features
    content: str
    """Hash of what is heard and how it is labelled; names alone would not show an edit."""

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, watcher: Watcher) -> Prepared:
        """Return what a recipe's folds share, computing features that are not in the cache.

        Raises:
            ServaxError: The corpus is not there, or a file cannot be read or written.
        """
        recipe.compute.resolve()  # said now, not when the features have been computed
        choice = recipe.corpus
        corpus = load(choice.name, choice.root, scheme=choice.scheme, seed=choice.seed)
        folds = corpus.folds(recipe.groups)
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
        try:
            for index in recipe.folds:
                (folder / "folds").mkdir(parents=True, exist_ok=True)
                folds[index].save(folder / "folds" / f"fold-{index + 1}.json")
        except OSError as error:
            raise ServaxError(f"{folder}: cannot be written ({error.strerror}).") from None
        return cls(recipe, folder, corpus, folds, features, _digest(corpus, features))

    def parts(self, index: int) -> Parts:
        """Return the datasets of a fold, scaled on its training speakers."""
        r = self.recipe
        return fold_parts(self.folds[index], self.features, r.front_end, window_db=r.window_db)

    def training_steps(self, index: int, training: RecogniserTraining | PurifierTraining) -> int:
        """Return the steps of a training that runs all its epochs."""
        count = len(self.folds[index].train)
        return training.epochs * len(epoch_order(count, training.batch_size, seed=0, epoch=0))

    def attack_ticks(self, index: int) -> int:
        """Return how often scoring a fold under attack ticks."""
        r = self.recipe
        defences = len(r.purifiers) + 2 + len(r.controls.quantise_bits)
        return ticks(len(self.folds[index].test), defences, r.attacks, batch_size=r.batch_size)

    def costs(self, index: int) -> list[tuple[str, float]]:
        """Return the stages of a fold with their expected cost in recogniser steps."""
        r = self.recipe
        recogniser = float(self.training_steps(index, r.recogniser))
        costs = [
            (stage_name(index, "target"), recogniser),
            (stage_name(index, "extractor"), recogniser),
        ]
        for name in r.purifiers:
            training = r.training(name)
            each = COST_PURIFIER_STEP + COST_SSA_STEP * training.ssa.steps
            steps = self.training_steps(index, training)
            costs.append((stage_name(index, name), steps * each))
        return [*costs, (stage_name(index, "attacks"), COST_GRADIENT * self.attack_ticks(index))]


def _digest(corpus: Corpus, features: Features) -> str:
    digest = hashlib.blake2b(digest_size=32)
    table = corpus.utterances
    for row in zip(
        table["utterance"], table["label"], table["speaker"], table["gender"], strict=True
    ):
        digest.update(json.dumps([str(cell) for cell in row]).encode())
    for row in features.rows(corpus):
        digest.update(features.logmel_db[row].tobytes())
    return digest.hexdigest()


def stage_name(index: int, kind: str) -> str:
    """Return how a stage is called before people."""
    return f"fold {index + 1}: {kind}"
