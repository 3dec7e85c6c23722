"""What recordings hold, decoded once: nothing that tests may have trained, and nothing is broken.

Comparing recordings means decoding them (about 3 s for RAVDESS), so what was decoded is
remembered for the life of the process, by path, size and time of change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from servax import audio
from servax.corpora.description import Progress
from servax.errors import AudioError, LeakError

__all__ = ["Apart", "Stretch", "Verification", "duplicates", "heard", "listen", "refuse_leaks"]

Apart = Literal["speaker", "text", "utterance"]
"""What no two parts of a fold may share."""
Stretch = tuple[str, Path, float, float]
"""Name of an utterance, its file, start and end in seconds; an end of NaN is that of the file."""

_remembered: dict[tuple[str, int, int, float, float], audio.Sound] = {}


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


def heard(path: Path, start: float, end: float) -> audio.Sound:
    """Return what a stretch of a file holds, decoding it only when it is new or has changed.

    Args:
        path: Sound file.
        start: First moment, in seconds.
        end: Moment after the last one, in seconds; NaN for the end.

    Raises:
        AudioError: As `audio.read`.
    """
    try:
        status = path.stat()
    except OSError:
        return audio.inspect(path, start=start, end=end)  # which writes the refusal
    last = -1.0 if math.isnan(end) else end  # NaN is not equal to itself
    key = (str(path), status.st_size, status.st_mtime_ns, start, last)
    if key not in _remembered:
        _remembered[key] = audio.inspect(path, start=start, end=end)
    return _remembered[key]


def listen(
    stretches: Sequence[Stretch], progress: Progress | None = None
) -> tuple[dict[str, audio.Sound], list[str]]:
    """Decode everything; return what was heard and a sentence for each stretch that failed."""
    sounds: dict[str, audio.Sound] = {}
    failures: list[str] = []
    for done, (name, path, start, end) in enumerate(stretches, start=1):
        try:
            sounds[name] = heard(path, start, end)
        except AudioError as error:
            failures.append(str(error))
        if progress is not None:
            progress(done, len(stretches))
    return sounds, failures


def duplicates(
    sounds: Mapping[str, audio.Sound], known: Sequence[frozenset[str]]
) -> tuple[list[str], list[str]]:
    """Return sentences for groups of identical recordings: unknown ones, published ones."""
    groups: dict[str, list[str]] = {}
    for name, sound in sounds.items():
        groups.setdefault(sound.fingerprint, []).append(name)
    problems: list[str] = []
    defects: list[str] = []
    for names in groups.values():
        if len(names) > 1:
            published = any(set(names) <= pair for pair in known)
            (defects if published else problems).append(
                f"{' and '.join(names)} are the same recording."
            )
    return problems, defects


def refuse_leaks(
    stretches: Mapping[str, Sequence[Stretch]],
    *,
    speakers: Mapping[str, Iterable[str]] | None = None,
    texts: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Compare every two parts of a fold.

    Args:
        stretches: Part (``train``, ``validation``, ``test``) → what it holds.
        speakers: Part → who speaks there; None where speakers may stand in two parts.
        texts: Part → what is said there; None where tested texts may train.

    Raises:
        LeakError: A speaker, a tested text, an identical recording or overlapping stretches of one
            file stand in two parts; the sentence names them.
        AudioError: A recording cannot be decoded.
    """
    seen: dict[str, str] = {}
    for part, names in (speakers or {}).items():
        for speaker in names:
            if seen.setdefault(speaker, part) != part:
                raise LeakError(
                    f"speaker {speaker} stands in {seen[speaker]} and in {part}: "
                    f"give each speaker to one part only."
                )
    for part, said in (texts or {}).items():
        shared = sorted(set(said) & set(texts["test"])) if texts and part != "test" else []
        if shared:
            raise LeakError(
                f"text {shared[0]!r} stands in {part} and in test: give each tested text to test "
                f"only."
            )
    _refuse_overlaps(stretches)
    _refuse_identical_sound(stretches)


def _refuse_overlaps(parts: Mapping[str, Sequence[Stretch]]) -> None:
    if all(start == 0 and math.isnan(end) for part in parts.values() for _, _, start, end in part):
        return  # whole files overlap only with themselves, and then they sound the same
    stretches: dict[Path, list[tuple[float, float, str, str]]] = {}
    for part, held in parts.items():
        for name, path, start, end in held:
            last = math.inf if math.isnan(end) else end
            stretches.setdefault(path.resolve(), []).append((start, last, part, name))
    for path, found in stretches.items():
        found.sort()
        for i, (_, end, part, name) in enumerate(found):
            for start, _, other_part, other in found[i + 1 :]:
                if start >= end:
                    break
                if other_part != part:
                    raise LeakError(
                        f"{name} ({part}) and {other} ({other_part}) overlap in {path}: "
                        f"give both to one part."
                    )


def _refuse_identical_sound(parts: Mapping[str, Sequence[Stretch]]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for part, held in parts.items():
        for name, path, start, end in held:
            sound = heard(path, start, end)
            first_part, first = seen.setdefault(sound.fingerprint, (part, name))
            if first_part != part:
                raise LeakError(
                    f"{first} ({first_part}) and {name} ({part}) are the same recording: "
                    f"remove one of them or give both to one part."
                )
