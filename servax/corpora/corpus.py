"""Who said what, with which feeling: a table of utterances with a label scheme."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from servax.corpora.description import Description
from servax.corpora.fold import Fold
from servax.corpora.partition import (
    check_groups,
    grouped,
    leave_one_speaker_out,
    natural_order,
)
from servax.corpora.shared import leave_one_text_out, official
from servax.corpora.verification import Progress, Verification, verify
from servax.errors import CorpusError, SettingError

__all__ = ["COLUMNS", "Corpus"]

COLUMNS = (
    "utterance",
    "path",
    "label",
    "emotion",
    "speaker",
    "gender",
    "session",
    "text",
    "start",
    "end",
)
"""Columns of `Corpus.utterances`; `servax.corpora.description.Utterance` says what they hold."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances with their labels, speakers and files; a part of a corpus is a corpus too.

    Raises:
        CorpusError: The table is empty, lacks a column, repeats an utterance, or has a label that
            is not in `labels`.
    """

    name: str
    """Short name of the corpus."""
    root: Path
    """Folder that relative paths start from."""
    scheme: str
    """Label scheme: ``native``, ``four``, ``speaker`` or ``gender``."""
    labels: tuple[str, ...]
    """Class names; a label's position is its class number."""
    utterances: pd.DataFrame = field(repr=False)
    """One row per utterance, with `COLUMNS`."""
    description: Description | None = field(default=None, repr=False)
    """Story and numbers of the corpus; None for a manifest."""
    emotions: tuple[str, ...] = field(default=(), repr=False)
    """Native labels that the scheme keeps."""
    complete: bool = field(default=False, repr=False)
    """Whether this is all that was found, so that `verify` may compare counts."""
    left_out: tuple[str, ...] = field(default=(), repr=False)
    """Sentences on files that do not follow the corpus' grammar."""

    def __post_init__(self) -> None:
        table = self.utterances
        missing = [column for column in COLUMNS if column not in table.columns]
        if missing:
            raise CorpusError(f"{self.name}: the table lacks the columns {', '.join(missing)}.")
        if table.empty:
            raise CorpusError(f"{self.name}: no utterance is left, expected at least one.")
        repeated = table["utterance"][table["utterance"].duplicated()]
        if len(repeated):
            raise CorpusError(f"{self.name}: utterance {repeated.iloc[0]!r} stands twice.")
        strange = sorted(set(table["label"]) - set(self.labels))
        if strange:
            raise CorpusError(
                f"{self.name}: label {strange[0]!r} is not one of {', '.join(self.labels)}."
            )

    def __len__(self) -> int:
        return len(self.utterances)

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """Speakers, in natural order."""
        return tuple(sorted(set(self.utterances["speaker"]), key=natural_order))

    @cached_property
    def label_index(self) -> npt.NDArray[np.int64]:
        """Class number of each utterance, (N,), an index into `labels`."""
        number = {label: i for i, label in enumerate(self.labels)}
        return np.array([number[label] for label in self.utterances["label"]], dtype=np.int64)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Sound file of each utterance."""
        return tuple(self.root / path for path in self.utterances["path"])

    @cached_property
    def stretches(self) -> tuple[tuple[str, Path, float, float], ...]:
        """Name, file, start and end of each utterance; an end of NaN is the end of the file."""
        table = self.utterances
        columns = (table["utterance"], self.paths, table["start"], table["end"])
        return tuple(
            (str(name), path, float(start), float(end))
            for name, path, start, end in zip(*columns, strict=True)
        )

    def subset(
        self,
        mask: npt.ArrayLike | None = None,
        *,
        speakers: Iterable[str] | None = None,
    ) -> Corpus:
        """Return the utterances that a mask, a list of speakers, or both select.

        Args:
            mask: Booleans (N,), one per utterance.
            speakers: Names of speakers of this corpus.

        Raises:
            SettingError: The mask is not N booleans, or a speaker is unknown.
            CorpusError: Nothing is selected.
        """
        chosen = np.ones(len(self), dtype=bool)
        if mask is not None:
            given = np.asarray(mask)
            if given.dtype != np.bool_ or given.shape != (len(self),):
                raise SettingError(
                    "mask", f"{given.dtype} {given.shape}", f"booleans of shape ({len(self)},)"
                )
            chosen &= given
        if speakers is not None:
            wanted = {speakers} if isinstance(speakers, str) else set(speakers)
            for unknown in sorted(wanted - set(self.speakers)):
                raise SettingError.choice("speaker", unknown, self.speakers)
            chosen &= np.asarray(self.utterances["speaker"].isin(wanted))
        table = self.utterances.loc[chosen].reset_index(drop=True)
        return replace(self, utterances=table, complete=False, left_out=())

    def verify(self, *, progress: Progress | None = None) -> Verification:
        """Compare counts, readability, silence and duplicates with what the corpus file says.

        Args:
            progress: Told after each file how many are done, of how many.
        """
        return verify(self, progress=progress)

    def folds(self, groups: int | str) -> list[Fold]:
        """Return folds, always the same ones for the same utterances.

        Args:
            groups: A number cuts the naturally sorted speakers into that many contiguous groups,
                as equal in size as possible: group i tests, the next validates, the rest trains.
                ``"speaker"`` leaves one speaker out, its session partner validates (the paper's
                ten folds of IEMOCAP); in a corpus without sessions the next speaker validates.
                All these are speaker-independent. Two others are not: ``"text"`` leaves one text
                out, and ``"official"`` is the split that the corpus was published with, one fold;
                in both a fifth of the rest validates.

        Raises:
            SettingError: `groups` does not fit the speakers, the texts or the label scheme.
            LeakError: A recording stands in two parts of a fold.
            AudioError: A recording cannot be decoded.
        """
        check_groups(groups, self.scheme)
        if groups == "text":
            return leave_one_text_out(self)
        if groups == "official":
            return [official(self)]
        if isinstance(groups, str):
            parts = leave_one_speaker_out(self._sessions())
        else:
            parts = grouped(self.speakers, groups)
        return [
            Fold(
                index,
                train=self.subset(speakers=train),
                validation=self.subset(speakers=validation),
                test=self.subset(speakers=test),
            )
            for index, (train, validation, test) in enumerate(parts)
        ]

    def _sessions(self) -> dict[str, frozenset[str]]:
        """Return the named sessions of each speaker."""
        found: dict[str, frozenset[str]] = {}
        for speaker, rows in self.utterances.groupby("speaker"):
            found[str(speaker)] = frozenset(set(rows["session"]) - {""})
        return found
