"""What a corpus file says about its corpus, and what reading its folder gives back.

Each corpus has one file with a `Description` (its story and its numbers) and a `scan` function
that reads names and tables, never sound. Emotions are spelled alike everywhere, so that one map
serves the four-class scheme of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EMOTIONS", "FOUR", "Description", "Download", "Scan", "Utterance"]

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
