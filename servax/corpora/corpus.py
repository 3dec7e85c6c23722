"""Who said what, with which feeling: a table of utterances with a label scheme, and its folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from servax.audio import Sound
from servax.corpora.description import Description, Progress
from servax.corpora.folds import Apart, Stretch, divide, heard, natural_order, refuse_leaks
from servax.errors import AudioError, CorpusError, FetchError, SettingError, unwritable
from servax.files import json_text, whole_file

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
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Verification:
    """What `Corpus.verify` found."""

    name: str
    """Corpus."""
    utterances: int
    """How many were looked at."""
    speakers: int
    """How many speak."""
    counts: Mapping[str, int]
    """Utterances of each native label."""
    seconds: float
    """How long all readable utterances play."""
    problems: tuple[str, ...]
    """One sentence for each thing that is wrong."""
    known_defects: tuple[str, ...]
    """One sentence for each defect that the corpus was published with."""

    @property
    def ok(self) -> bool:
        """True when nothing is wrong; published defects do not count."""
        return not self.problems


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
    def stretches(self) -> tuple[Stretch, ...]:
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
        counts = {str(e): int(n) for e, n in self.utterances.groupby("emotion").size().items()}
        problems = list(self.left_out)
        if self.complete and self.description is not None:
            problems += self.description.differences(counts, self.emotions, self.speakers)
        sounds: dict[str, Sound] = {}
        for done, (name, path, start, end) in enumerate(self.stretches, start=1):
            try:
                sounds[name] = heard(path, start, end)
            except AudioError as error:
                problems.append(str(error))
            if progress is not None:
                progress(done, len(self))
        repeated, defects = self._duplicates(sounds)
        silent = [f"{name} is silent from end to end." for name, s in sounds.items() if s.peak == 0]
        return Verification(
            name=self.name,
            utterances=len(self),
            speakers=len(self.speakers),
            counts=counts,
            seconds=sum(sound.seconds for sound in sounds.values()),
            problems=tuple(problems + repeated + silent),
            known_defects=tuple(defects),
        )

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
        apart, folds = divide(
            self.utterances,
            groups,
            name=self.name,
            scheme=self.scheme,
            is_test=self.description.official_test if self.description else None,
            together=self.description.known_duplicates if self.description else (),
        )
        return [
            Fold(
                index,
                train=self.subset(train),
                validation=self.subset(validation),
                test=self.subset(test),
                apart=apart,
            )
            for index, (train, validation, test) in enumerate(folds)
        ]

    def _duplicates(self, sounds: Mapping[str, Sound]) -> tuple[list[str], list[str]]:
        """Return sentences for groups of identical recordings: unknown ones, published ones."""
        groups: dict[str, list[str]] = {}
        for name, sound in sounds.items():
            groups.setdefault(sound.fingerprint, []).append(name)
        known = self.description.known_duplicates if self.description else ()
        problems: list[str] = []
        defects: list[str] = []
        for names in groups.values():
            if len(names) > 1:
                published = any(set(names) <= pair for pair in known)
                sentence = f"{' and '.join(names)} are the same recording."
                (defects if published else problems).append(sentence)
        return problems, defects


@dataclass(frozen=True, eq=False)
class Fold:
    """One split of a corpus, speaker-independent unless `apart` says otherwise.

    Raises:
        LeakError: An identical recording, or what `apart` names, stands in two parts.
    """

    index: int
    """Position among the folds, from 0."""
    train: Corpus
    """Utterances that weights and scales may be fitted on."""
    validation: Corpus
    """Utterances that decide when to stop."""
    test: Corpus
    """Utterances that are only ever scored."""
    apart: Apart = "speaker"
    """``speaker``, ``text`` (no tested text is heard in training) or ``utterance``."""

    def __post_init__(self) -> None:
        parts: dict[str, Corpus] = {part: getattr(self, part) for part in PARTS}
        refuse_leaks(
            {name: part.stretches for name, part in parts.items()},
            speakers={name: part.speakers for name, part in parts.items()}
            if self.apart == "speaker"
            else None,
            texts={name: part.utterances["text"] for name, part in parts.items()}
            if self.apart == "text"
            else None,
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the sorted utterances of each part; equal splits have equal hashes."""
        canonical = json.dumps([[part, sorted(names)] for part, names in self._names().items()])
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the split as JSON; the file appears whole or not at all.

        Raises:
            FetchError: The file cannot be written.
        """
        path = Path(path)
        record: dict[str, Any] = {
            "format": "servax fold 1",
            "corpus": self.train.name,
            "scheme": self.train.scheme,
            "index": self.index,
            "hash": self.hash,
        }
        if self.apart != "speaker":
            record["apart"] = self.apart  # the default is not named: the files stay as they were
        record |= self._names()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                part.write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise FetchError(f"{path}: {unwritable(error)}.") from None

    def _names(self) -> dict[str, list[str]]:
        """Return the utterances of each part."""
        return {part: list(getattr(self, part).utterances["utterance"]) for part in PARTS}
