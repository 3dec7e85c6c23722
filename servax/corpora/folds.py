"""Which utterances train, validate and test, and that no part hears what another holds.

Most divisions are speaker-independent. By text, and as published, every speaker may stand on both
sides: speakers can be recognised only where they have trained, so what is kept apart there is the
text (text-independent speaker recognition), or the recordings of a published test set.

Comparing recordings means decoding them (about 3 s for RAVDESS), so what was decoded is
remembered for the life of the process, by path, size and time of change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from servax import audio
from servax.errors import LeakError, SettingError

Apart = Literal["speaker", "text", "utterance"]
"""What no two parts of a fold may share."""
Stretch = tuple[str, Path, float, float]
"""Name of an utterance, its file, start and end in seconds; an end of NaN is that of the file."""
Division = Literal["speaker", "text", "official"]
"""What else than a number of speaker groups may divide a corpus: see `Corpus.folds`."""
Groups = int | Division
"""How a corpus is divided into folds."""
DIVISIONS: tuple[Division, ...] = ("speaker", "text", "official")
SPEAKER_INDEPENDENT = "'speaker' or a whole number"
SHARED = ("text", "official")
"""Divisions in which every speaker may stand on both sides."""

Speakers = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Speakers that train, validate and test."""
Mask = npt.NDArray[np.bool_]
Masks = tuple[Mask, Mask, Mask]
"""Utterances (N,) that train, validate and test."""


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which ``s2`` comes before ``s10``."""
    pieces = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return tuple((0, int(d), "") if d else (1, 0, t) for d, t in pieces)


def check_groups(groups: object, scheme: str) -> None:
    """Refuse a division that is unknown, or that makes no sense for a label scheme.

    Raises:
        SettingError: `groups` is no whole number and none of `DIVISIONS`; speakers are to be
            recognised who train nowhere, or genders of speakers who train.
    """
    if isinstance(groups, str) and groups not in DIVISIONS:
        known = ", ".join(repr(name) for name in DIVISIONS)
        raise SettingError("groups", groups, f"one of {known} or a whole number")
    if scheme == "speaker" and groups not in SHARED:
        raise SettingError(
            "groups",
            groups,
            "'text' or 'official' with scheme 'speaker': speaker-independent folds would test "
            "speakers that train nowhere",
        )
    if scheme == "gender" and groups in SHARED:
        raise SettingError(
            "groups",
            groups,
            f"{SPEAKER_INDEPENDENT} with scheme 'gender': whoever knows a speaker knows the gender",
        )


def divide(
    table: pd.DataFrame,
    groups: int | str,
    *,
    name: str,
    scheme: str,
    is_test: Callable[[str], bool] | None = None,
    together: Sequence[frozenset[str]] = (),
) -> tuple[Apart, list[Masks]]:
    """Return what the parts do not share, and the parts of each fold.

    Args:
        table: N utterances.
        groups: As for `Corpus.folds`.
        name: Of the corpus, for refusals.
        scheme: Its label scheme.
        is_test: Tells the utterances of the published test set.
        together: Utterances that were published twice, and must not be parted.

    Raises:
        SettingError: `groups` does not fit the speakers, the texts or the label scheme.
    """
    check_groups(groups, scheme)
    if groups == "text":
        return "text", [_shared(table, test, "text", together) for test in _texts(table, name)]
    if groups == "official":
        test = _published(table, name, is_test)
        return "utterance", [_shared(table, test, "official", together)]
    who = table["speaker"]
    if isinstance(groups, str):
        sessions = table["session"].groupby(who)
        folds = leave_one_speaker_out({str(s): frozenset(set(f) - {""}) for s, f in sessions})
    else:
        folds = grouped(list(set(who)), groups)
    masks = ([who.isin(part).to_numpy() for part in parts] for parts in folds)
    return "speaker", [(train, validation, test) for train, validation, test in masks]


def grouped(speakers: Sequence[str], groups: int) -> list[Speakers]:
    """Return grouped k-fold: group i tests, the next one validates, the rest trains.

    Speakers are sorted naturally and cut into contiguous groups as equal in size as possible, the
    larger groups first.

    Raises:
        SettingError: `groups` is below 3 (something must be left to train on) or above the number
            of speakers.
    """
    ordered = sorted(speakers, key=natural_order)
    if isinstance(groups, bool) or not isinstance(groups, int) or not 3 <= groups <= len(ordered):
        raise SettingError(
            "groups", groups, f"'speaker' or a whole number from 3 to {len(ordered)} (the speakers)"
        )
    cut = [tuple(map(str, part)) for part in np.array_split(np.array(ordered, object), groups)]
    return [_split(ordered, test, validation) for test, validation in pairwise([*cut, cut[0]])]


def leave_one_speaker_out(sessions: Mapping[str, frozenset[str]]) -> list[Speakers]:
    """Return one fold per speaker: it tests, its session partner validates, the others train.

    The partner is the next speaker, in natural order and around the end, who shares a session.
    A speaker who shares none with anybody is validated by the next speaker.

    Args:
        sessions: For each speaker, the sessions it speaks in (none for a corpus without sessions).

    Raises:
        SettingError: There are fewer than 3 speakers.
    """
    ordered = sorted(sessions, key=natural_order)
    if len(ordered) < 3:
        raise SettingError(
            "groups", "speaker", f"a corpus of at least 3 speakers, this one has {len(ordered)}"
        )
    folds: list[Speakers] = []
    for i, speaker in enumerate(ordered):
        others = ordered[i + 1 :] + ordered[:i]
        partners = [other for other in others if sessions[other] & sessions[speaker]]
        folds.append(_split(ordered, (speaker,), (partners or others)[:1]))
    return folds


def _split(speakers: Sequence[str], test: Sequence[str], validation: Sequence[str]) -> Speakers:
    train = tuple(each for each in speakers if each not in {*test, *validation})
    return train, tuple(validation), tuple(test)


def every_fifth(
    names: Sequence[str], labels: Sequence[str], *, together: Iterable[frozenset[str]] = ()
) -> frozenset[str]:
    """Return the first, sixth, eleventh … name of each label, in natural order.

    Args:
        names: Utterances.
        labels: Label of each.
        together: Sets of names none of which is chosen unless all are.
    """
    ordered = pd.Series(list(labels), index=list(names))[sorted(names, key=natural_order)]
    chosen = set(ordered.index[ordered.groupby(ordered).cumcount() % 5 == 0])
    for alike in together:
        if not alike <= chosen:
            chosen -= alike
    return frozenset(chosen)


def _texts(table: pd.DataFrame, name: str) -> list[Mask]:
    """Return the utterances (N,) of each text, in natural order."""
    texts = table["text"]
    found = sorted(set(texts), key=natural_order)
    if "" in found or len(found) < 2:
        given = f"{(texts == '').sum()} utterances without a text" if "" in found else "one text"
        raise SettingError("groups", "text", f"a corpus of at least 2 texts, {name} has {given}")
    return [(texts == each).to_numpy() for each in found]


def _published(table: pd.DataFrame, name: str, is_test: Callable[[str], bool] | None) -> Mask:
    """Return the utterances (N,) of the published test set."""
    if is_test is None:
        expected = f"a whole number, 'speaker' or 'text': {name} has no official split"
        raise SettingError("groups", "official", expected)
    test = np.array([is_test(str(each)) for each in table["utterance"]])
    if test.all() or not test.any():
        expected = (
            f"a corpus with both of its sets, {test.sum()} of {len(test)} utterances are for test"
        )
        raise SettingError("groups", "official", expected)
    return test


def _shared(
    table: pd.DataFrame, test: Mask, groups: str, together: Sequence[frozenset[str]]
) -> Masks:
    """Return the parts of which `test` (N,) is given; every fifth of each class validates."""
    rest = table[~test]
    chosen = every_fifth(list(rest["utterance"]), list(rest["label"]), together=together)
    validation = table["utterance"].isin(chosen).to_numpy() & ~test
    train = ~test & ~validation
    unknown = sorted(set(table["label"][~train]) - set(table["label"][train]), key=natural_order)
    if unknown:
        raise SettingError(
            "groups",
            groups,
            f"a division in which every class trains: {unknown[0]!r} would only be tested",
        )
    return train, validation, test


_heard: dict[tuple[str, int, int, float, float], audio.Sound] = {}


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
    if key not in _heard:
        _heard[key] = audio.inspect(path, start=start, end=end)
    return _heard[key]


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
    found: dict[Path, list[tuple[float, float, str, str]]] = {}
    for part, held in parts.items():
        for name, path, start, end in held:
            last = math.inf if math.isnan(end) else end
            found.setdefault(path.resolve(), []).append((start, last, part, name))
    for path, stretches in found.items():
        stretches.sort()
        for i, (_, end, part, name) in enumerate(stretches):
            for start, _, other_part, other in stretches[i + 1 :]:
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
