"""Which utterances an audit hears: of held-out speakers, the classes in equal shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servax.corpora import Corpus, Fold, load
from servax.errors import SettingError
from servax.kinds import check_types
from servax.training import generator


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which utterances of which corpus an audit hears."""

    corpus: str
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    root: str | None = None
    """Folder of the corpus; default $SERVAX_DATA/<name>."""
    scheme: str = "four"
    """Label scheme."""
    groups: int = 6
    """Into how many groups the speakers are divided."""
    held_out: int = 1
    """The group that is heard, from 1; the model must not have been trained on it."""
    utterances: int | None = None
    """Most utterances; default all of the group."""
    seed: int = 0
    """Draws the utterances; a synthetic corpus is spoken with it too."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.utterances is not None and self.utterances < 1:
            raise SettingError("utterances", self.utterances, "a whole number of at least 1")

    def fold(self) -> Fold:
        """Return the split whose test part is heard.

        Raises:
            SettingError: There is no such group.
            CorpusError: The corpus is not there.
        """
        folds = load(self.corpus, self.root, scheme=self.scheme, seed=self.seed).folds(self.groups)
        if not 1 <= self.held_out <= len(folds):
            raise SettingError("held_out", self.held_out, f"a group from 1 to {len(folds)}")
        return folds[self.held_out - 1]

    def of(self, test: Corpus) -> Corpus:
        """Return the utterances of `test` that are heard."""
        if self.utterances is None or self.utterances >= len(test):
            return test
        return test.subset(chosen(test, self.utterances, seed=self.seed))


def chosen(corpus: Corpus, count: int, *, seed: int) -> np.ndarray:
    """Return a mask (N,) of `count` utterances: classes, and speakers in each, in equal shares."""
    table = corpus.utterances
    order = np.random.default_rng(generator(seed, "audit", "utterances").initial_seed())
    shuffled = order.permutation(len(table))
    # The turn of an utterance among those of its class and speaker, then of its class: taking the
    # lowest turns first visits every class once before any twice, and its speakers in turn.
    labels, speakers = table["label"].to_numpy(), table["speaker"].to_numpy()
    turns = _turns([*zip(labels[shuffled], speakers[shuffled], strict=True)])
    by_speaker = shuffled[np.argsort(turns, kind="stable")]
    by_class = _turns(list(labels[by_speaker]))
    mask = np.zeros(len(table), dtype=bool)
    mask[by_speaker[np.argsort(by_class, kind="stable")][:count]] = True
    return mask


def _turns(keys: list[object]) -> np.ndarray:
    """Return how often each key stood before, (N,)."""
    seen: dict[object, int] = {}
    turns = []
    for key in keys:
        turns.append(seen.get(key, 0))
        seen[key] = turns[-1] + 1
    return np.array(turns)
