"""Which utterances train, validate and test: one rule for each way to divide a table.

Most divisions are speaker-independent. By text, and as published, every speaker may stand on both
sides: speakers can be recognised only where they have trained, so what is kept apart there is the
text (text-independent speaker recognition), or the recordings of a published test set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from servax.corpora.recordings import Apart
from servax.errors import SettingError

__all__ = [
    "DIVISIONS",
    "Division",
    "Groups",
    "check_groups",
    "divide",
    "every_fifth",
    "grouped",
    "leave_one_speaker_out",
    "natural_order",
]

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
        parts = leave_one_speaker_out({str(s): frozenset(set(f) - {""}) for s, f in sessions})
    else:
        parts = grouped(list(set(who)), groups)
    return "speaker", [(_of(who, a), _of(who, b), _of(who, c)) for a, b, c in parts]


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
    return [
        (_without(ordered, cut[i] + cut[(i + 1) % groups]), cut[(i + 1) % groups], cut[i])
        for i in range(groups)
    ]


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
        validation = (partners or others)[0]
        folds.append((_without(ordered, (speaker, validation)), (validation,), (speaker,)))
    return folds


def every_fifth(
    names: Sequence[str], labels: Sequence[str], *, together: Iterable[frozenset[str]] = ()
) -> frozenset[str]:
    """Return the first, sixth, eleventh … name of each label, in natural order.

    Args:
        names: Utterances.
        labels: Label of each.
        together: Sets of names none of which is chosen unless all are.
    """
    turn: Counter[str] = Counter()
    chosen = set()
    for name, label in sorted(zip(names, labels, strict=True), key=lambda p: natural_order(p[0])):
        if turn[label] % 5 == 0:
            chosen.add(name)
        turn[label] += 1
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
    return [_of(texts, [each]) for each in found]


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
    validation = _of(table["utterance"], chosen) & ~test
    train = ~test & ~validation
    unknown = sorted(set(table["label"][~train]) - set(table["label"][train]), key=natural_order)
    if unknown:
        raise SettingError(
            "groups",
            groups,
            f"a division in which every class trains: {unknown[0]!r} would only be tested",
        )
    return train, validation, test


def _of(column: pd.Series[str], values: Iterable[str]) -> Mask:
    return column.isin(list(values)).to_numpy()


def _without(speakers: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    return tuple(speaker for speaker in speakers if speaker not in taken)
