"""Nothing that tests may have trained: speakers or texts, recordings, overlapping stretches.

Comparing recordings means decoding them (about 3 s for RAVDESS), so what was decoded is
remembered for the life of the process, by path, size and time of change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from servax import audio
from servax.errors import LeakError

if TYPE_CHECKING:
    from servax.corpora.corpus import Corpus

__all__ = ["Apart", "heard", "refuse_leaks"]

Apart = Literal["speaker", "text", "utterance"]
"""What no two parts of a fold may share."""

_remembered: dict[tuple[str, int, int, float, float], audio.Sound] = {}


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


def refuse_leaks(parts: Mapping[str, Corpus], *, apart: Apart = "speaker") -> None:
    """Compare every two parts of a fold.

    Args:
        parts: Part name → its utterances.
        apart: ``speaker``: no speaker stands in two parts. ``text``: no text of ``test`` stands
            in another part. ``utterance``: recordings alone are compared.

    Raises:
        LeakError: A speaker, a tested text, an identical recording or overlapping stretches of one
            file stand in two parts; the sentence names them.
        AudioError: A recording cannot be decoded.
    """
    if apart == "speaker":
        _refuse_shared_speakers(parts)
    elif apart == "text":
        _refuse_tested_texts(parts)
    _refuse_overlaps(parts)
    _refuse_identical_sound(parts)


def _refuse_shared_speakers(parts: Mapping[str, Corpus]) -> None:
    seen: dict[str, str] = {}
    for part, corpus in parts.items():
        for speaker in corpus.speakers:
            if seen.setdefault(speaker, part) != part:
                raise LeakError(
                    f"speaker {speaker} stands in {seen[speaker]} and in {part}: "
                    f"give each speaker to one part only."
                )


def _refuse_tested_texts(parts: Mapping[str, Corpus]) -> None:
    tested = set(parts["test"].utterances["text"])
    for part, corpus in parts.items():
        shared = sorted(tested & set(corpus.utterances["text"]))
        if part != "test" and shared:
            raise LeakError(
                f"text {shared[0]!r} stands in {part} and in test: give each tested text to test "
                f"only."
            )


def _refuse_overlaps(parts: Mapping[str, Corpus]) -> None:
    if not any(_is_cut(corpus) for corpus in parts.values()):
        return  # whole files overlap only with themselves, and then they sound the same
    stretches: dict[Path, list[tuple[float, float, str, str]]] = {}
    for part, corpus in parts.items():
        for name, path, start, end in corpus.stretches:
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


def _is_cut(corpus: Corpus) -> bool:
    """Tell whether an utterance is less than its file."""
    table = corpus.utterances
    return bool((table["start"] > 0).any() or table["end"].notna().any())


def _refuse_identical_sound(parts: Mapping[str, Corpus]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for part, corpus in parts.items():
        for name, path, start, end in corpus.stretches:
            sound = heard(path, start, end)
            first_part, first = seen.setdefault(sound.fingerprint, (part, name))
            if first_part != part:
                raise LeakError(
                    f"{first} ({first_part}) and {name} ({part}) are the same recording: "
                    f"remove one of them or give both to one part."
                )
