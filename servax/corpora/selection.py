"""Which part of which corpus, as options and settings name it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from servax.corpora.corpus import Corpus, Fold
from servax.corpora.loading import load
from servax.errors import SettingError
from servax.kinds import check_types

Scheme = Literal["native", "four", "speaker", "gender"]
"""A label scheme."""


@dataclass(frozen=True)
class FoldChoice:
    """One fold of a corpus."""

    corpus: str
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    _: KW_ONLY
    root: str | None = None
    """Folder of the corpus; default $SERVAX_DATA/<name>."""
    scheme: Scheme = "four"
    """What is the label: native (the corpus' own), four (emotions), speaker or gender."""
    groups: int | str = 6
    """Into how many groups the speakers are divided; or speaker (each of them), text (each text;
    speakers on both sides) or official (the published split)."""
    held_out: int = 1
    """Which group is held out, from 1."""

    def fold_of(self, corpus: Corpus) -> Fold:
        """Return the fold of a corpus.

        Raises:
            SettingError: There is no such group.
        """
        folds = corpus.folds(self.groups)
        if not 1 <= self.held_out <= len(folds):
            raise SettingError("held_out", self.held_out, f"a group from 1 to {len(folds)}")
        return folds[self.held_out - 1]


@dataclass(frozen=True, kw_only=True)
class Selection(FoldChoice):
    """Which utterances of which corpus an audit hears."""

    corpus: str
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    held_out: int = 1
    """The group that is heard, from 1; the model must not have been trained on it."""
    utterances: int | None = None
    """Most utterances, classes and speakers in equal shares; default all of the group."""
    seed: int = 0
    """Draws utterances, starts and queries; a synthetic corpus is spoken with it too."""

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
        return self.fold_of(load(self.corpus, self.root, scheme=self.scheme, seed=self.seed))
