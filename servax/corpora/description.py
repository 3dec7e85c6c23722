"""What a corpus file says about its corpus, and what reading its folder gives back.

Each corpus has one file with a `Description`: its story, its numbers, and what reads names and
tables, never sound; most are a `FileNames`. Emotions are spelled alike everywhere, so that one map
serves the four-class scheme of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Progress = Callable[[int, int], None]
"""Told how many are done, of how many."""

EMOTIONS = (
    "angry",
    "bored",
    "calm",
    "disgusted",
    "excited",
    "fearful",
    "frustrated",
    "happy",
    "neutral",
    "other",
    "sad",
    "surprised",
)
"""Every native emotion of the corpora that servax knows."""

FOUR: Mapping[str, str] = {
    "angry": "angry",
    "excited": "happy",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
}
"""The scheme ``four`` of most IEMOCAP papers: excited counts as happy, the rest is left out."""


@dataclass(frozen=True)
class Utterance:
    """One stretch of sound by one speaker with one native label."""

    utterance: str
    """Unique name inside the corpus."""
    path: str
    """Sound file: POSIX path below the corpus root, or an absolute path."""
    emotion: str
    """Native label, before any scheme."""
    speaker: str
    """Name of the speaker, unique inside the corpus."""
    gender: str = ""
    """``female``, ``male`` or empty when unknown."""
    session: str = ""
    """Recording session shared with other speakers, or empty."""
    text: str = ""
    """Identity of the sentence, or empty when the speech is free."""
    start: float = 0.0
    """First moment, in seconds."""
    end: float = float("nan")
    """Moment after the last one, in seconds; NaN is the end of the file."""


@dataclass(frozen=True)
class Scan:
    """What was found below a corpus root."""

    utterances: tuple[Utterance, ...]
    """In the order of the corpus."""
    left_out: tuple[str, ...] = ()
    """One sentence for each file or line that does not follow the corpus' grammar."""


@dataclass(frozen=True)
class FileNames:
    """Reads a corpus whose labels stand in the names of its files; call it with the root."""

    patterns: tuple[str, ...]
    """Where its files lie below the root: the first glob pattern that finds any counts."""
    grammar: str
    """Shape of a name, for the sentence on those left out."""
    name: re.Pattern[str]
    """A name without suffix, with the groups ``emotion``, ``speaker`` and ``text``."""
    emotions: Mapping[str, tuple[str, int]]
    """What a name says → native label, and how many files say so."""
    genders: Mapping[str, str] = field(default_factory=dict)
    """Speaker → ``female`` or ``male``."""
    passed_over: re.Pattern[str] = re.compile("(?!)")
    """Names without suffix that are left out without a word."""

    @property
    def counts(self) -> dict[str, int]:
        """Native label → number of files."""
        return dict(self.emotions.values())

    def __call__(self, root: Path) -> Scan:
        """Return what lies below a root, in the order of the paths."""
        utterances: list[Utterance] = []
        left_out: list[str] = []
        files = next((found for p in self.patterns if (found := sorted(root.glob(p)))), [])
        for file in files:
            if file.name.startswith(".") or self.passed_over.fullmatch(file.stem):
                continue  # ._x.wav is a file manager's leftover
            path = file.relative_to(root).as_posix()
            shown = path.encode("utf-8", "backslashreplace").decode()
            match = self.name.fullmatch(file.stem)
            if shown != path:  # tables and splits are kept in UTF-8
                left_out.append(f"{shown} has a name that is not UTF-8, it is left out.")
            elif match is None:
                left_out.append(f"{path} does not follow {self.grammar}, it is left out.")
            else:
                utterances.append(
                    Utterance(
                        utterance=file.stem,
                        path=path,
                        emotion=self.emotions[match["emotion"]][0],
                        speaker=match["speaker"],
                        gender=self.genders.get(match["speaker"], ""),
                        text=match["text"],
                    )
                )
        return Scan(tuple(utterances), tuple(left_out))


@dataclass(frozen=True)
class Download:
    """One archive that `fetch` may load, with the checksum its publisher states."""

    url: str
    """https address."""
    algorithm: str
    """Name of the checksum in hashlib: ``sha256`` or, for older publishers, ``md5``."""
    checksum: str
    """Hexadecimal digits."""
    bytes: int = 0
    """Size that the publisher states, or 0 when unknown."""


@dataclass(frozen=True)
class Description:
    """The story and the numbers of one corpus."""

    name: str
    """Short name, as on the command line."""
    title: str
    """Full name."""
    homepage: str
    """Where people read about it."""
    licence: str
    """Terms of use, in one line."""
    reference: str
    """Whom to cite."""
    language: str
    """Language spoken."""
    counts: Mapping[str, int]
    """Utterances of the complete corpus, for each native label."""
    speakers: tuple[str, ...]
    """Every speaker of the complete corpus."""
    scan: Callable[[Path], Scan]
    """Reads names and tables below a root."""
    schemes: tuple[str, ...] = ("native", "four", "speaker", "gender")
    """Label schemes that it can serve."""
    known_duplicates: tuple[frozenset[str], ...] = ()
    """Utterances published with identical sound."""
    official_test: Callable[[str], bool] | None = None
    """Tells the utterances of the published test set; None when no split was published."""
    download: Download | None = None
    """Archive that `fetch` may load; None when the corpus must be fetched by hand."""
    by_hand: str = ""
    """How to get it without `fetch`: one sentence."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Native labels, sorted."""
        return tuple(sorted(self.counts))

    def differences(
        self, counts: Mapping[str, int], emotions: Iterable[str], speakers: Sequence[str]
    ) -> list[str]:
        """Return sentences on absent and strange speakers and on each label with the wrong count.

        Args:
            counts: Utterances that were found, for each native label.
            emotions: Native labels to compare.
            speakers: Who was found.
        """
        sentences = []
        absent = [s for s in self.speakers if s not in speakers]
        if absent:
            sentences.append(
                f"{len(absent)} of {len(self.speakers)} speakers are missing: {', '.join(absent)}."
            )
        strangers = [s for s in speakers if s not in self.speakers]
        if strangers and self.speakers:
            sentences.append(
                f"{len(strangers)} speakers are not of this corpus: {', '.join(strangers)}."
            )
        for emotion in emotions:
            count, expected = counts.get(emotion, 0), self.counts[emotion]
            if count != expected:
                sentences.append(f"{emotion} has {count} utterances, the corpus has {expected}.")
        return sentences
