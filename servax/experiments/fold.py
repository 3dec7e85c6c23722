"""What all folds of a run share, and what the stages of each have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from servax.corpora import Corpus, Fold, cache_folder, load
from servax.evaluation import records
from servax.evaluation.engine import Identity
from servax.experiments.recipe import Experiment
from servax.features import Features, extract
from servax.stages import Stage, Task, Watcher, make_stage

TABLE = "records.parquet"

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


class FoldStages(Generic[Said]):
    """What the stages of one fold and seed have in common, on log-Mel and on sound.

    Args:
        data: What all folds share.
        index: Number of the fold, from 0.
        seed: Seed of the run.
        origin: Provenance that settings do not decide: code, command, machine.
        target: Name of the attacked recogniser.
    """

    def __init__(
        self, data: RunData[Said], index: int, seed: int, origin: Mapping[str, Any], target: str
    ) -> None:
        self.data, self.index, self.seed, self.origin = data, index, seed, origin
        self.recipe, self.fold = data.recipe, data.folds[index]
        self.name = data.fold_name(index, seed).replace(", ", "-").replace(" ", "-")
        """Of its files: `fold-1-seed-7`."""
        self.identity = Identity(target=target, fold=index + 1, seed=seed)
        self.shared: dict[str, Any] = {
            "fold": self.fold.hash,
            "content": data.content,
            "corpus": asdict(self.recipe.corpus) | {"root": None},
        }
        """Of the settings of every stage."""

    def stage(self, kind: str, settings: Mapping[str, Any]) -> Stage:
        """Return the stage of this fold for one kind of work with given settings."""
        name = f"{self.data.fold_name(self.index, self.seed)}: {kind}"
        return make_stage(self.data.folder, kind, name, {**self.shared, **settings})

    def scored(
        self,
        kind: str,
        settings: Mapping[str, Any],
        needs: Sequence[Stage],
        steps: int,
        cost: float,
        attacked: Callable[[Callable[[], None]], pd.DataFrame],
    ) -> Task:
        """Return a stage that leaves the records of systems under one attack.

        Args:
            kind: Of the stage.
            settings: What decides its result beside the fold and the seed.
            needs: The trainings that it reads.
            steps: How often it advances.
            cost: Of the whole.
            attacked: Makes the records, calling what it is given at each step.
        """
        settings = {"batch_size": self.recipe.batch_size, "seed": self.seed, **settings}

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            frame = attacked(watcher.advance)
            records.write(frame, stage.folder / TABLE, provenance=self.origin)
            return {"rows": len(frame)}

        return Task(self.stage(kind, settings), "attack", tuple(needs), steps, cost, work)


def _digest(corpus: Corpus, features: Features) -> str:
    digest = hashlib.blake2b(digest_size=32)
    table = corpus.utterances
    for row in zip(
        table["utterance"], table["label"], table["speaker"], table["gender"], strict=True
    ):
        digest.update(json.dumps([str(cell) for cell in row]).encode())
    digest.update(features.recordings.encode())
    return digest.hexdigest()
