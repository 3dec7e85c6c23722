"""Is what lies on the disk the corpus that its description tells of?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servax import audio
from servax.corpora.leaks import heard
from servax.errors import AudioError

if TYPE_CHECKING:
    from servax.corpora.corpus import Corpus

__all__ = ["Progress", "Verification", "verify"]

Progress = Callable[[int, int], None]
"""Told how many are done, of how many."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

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


def verify(corpus: Corpus, *, progress: Progress | None = None) -> Verification:
    """Check counts against the description, readability of every file, silence and duplicates.

    Args:
        corpus: Any corpus; counts are compared only for a complete, described one.
        progress: Told after each file.
    """
    problems = list(corpus.left_out)
    if corpus.complete:
        problems += _missing(corpus)
    sounds, unreadable = _listen(corpus, progress)
    problems += unreadable
    found, defects = _duplicates(corpus, sounds)
    problems += found
    problems += [f"{name} is silent from end to end." for name, s in sounds.items() if s.peak == 0]
    return Verification(
        name=corpus.name,
        utterances=len(corpus),
        speakers=len(corpus.speakers),
        counts=_counts(corpus),
        seconds=sum(sound.seconds for sound in sounds.values()),
        problems=tuple(problems),
        known_defects=tuple(defects),
    )


def _counts(corpus: Corpus) -> dict[str, int]:
    """Return native label → number of utterances."""
    counted = Counter(str(emotion) for emotion in corpus.utterances["emotion"])
    return dict(sorted(counted.items()))


def _missing(corpus: Corpus) -> list[str]:
    """Return a sentence for the absent speakers and for each label with the wrong count."""
    description = corpus.description
    if description is None:
        return []
    sentences = []
    absent = [s for s in description.speakers if s not in corpus.speakers]
    if absent:
        sentences.append(
            f"{len(absent)} of {len(description.speakers)} speakers are missing: "
            f"{', '.join(absent)}."
        )
    strangers = [s for s in corpus.speakers if s not in description.speakers]
    if strangers and description.speakers:
        sentences.append(
            f"{len(strangers)} speakers are not of this corpus: {', '.join(strangers)}."
        )
    found = _counts(corpus)
    for emotion in corpus.emotions:
        count, expected = found.get(emotion, 0), description.counts[emotion]
        if count != expected:
            sentences.append(f"{emotion} has {count} utterances, the corpus has {expected}.")
    return sentences


def _listen(corpus: Corpus, progress: Progress | None) -> tuple[dict[str, audio.Sound], list[str]]:
    """Decode everything; return what was heard and a sentence for each file that failed."""
    sounds: dict[str, audio.Sound] = {}
    failures: list[str] = []
    for done, (name, path, start, end) in enumerate(corpus.stretches, start=1):
        try:
            sounds[name] = heard(path, start, end)
        except AudioError as error:
            failures.append(str(error))
        if progress is not None:
            progress(done, len(corpus))
    return sounds, failures


def _duplicates(corpus: Corpus, sounds: Mapping[str, audio.Sound]) -> tuple[list[str], list[str]]:
    """Return sentences for groups of identical recordings: unknown ones, published ones."""
    groups: dict[str, list[str]] = {}
    for name, sound in sounds.items():
        groups.setdefault(sound.fingerprint, []).append(name)
    known = corpus.description.known_duplicates if corpus.description else ()
    problems: list[str] = []
    defects: list[str] = []
    for names in groups.values():
        if len(names) > 1:
            published = any(set(names) <= pair for pair in known)
            (defects if published else problems).append(
                f"{' and '.join(names)} are the same recording."
            )
    return problems, defects
