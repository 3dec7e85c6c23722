"""Names into parts: grouped k-fold, leave-one-speaker-out, every fifth, as plain functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from servax.errors import SettingError

__all__ = [
    "DIVISIONS",
    "Division",
    "Groups",
    "Parts",
    "check_groups",
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

Parts = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Speakers that train, validate and test."""


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


def grouped(speakers: Sequence[str], groups: int) -> list[Parts]:
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
    size, larger = divmod(len(ordered), groups)
    starts = [i * size + min(i, larger) for i in range(groups + 1)]
    cut = [tuple(ordered[starts[i] : starts[i + 1]]) for i in range(groups)]
    return [
        (_without(ordered, cut[i] + cut[(i + 1) % groups]), cut[(i + 1) % groups], cut[i])
        for i in range(groups)
    ]


def leave_one_speaker_out(sessions: Mapping[str, frozenset[str]]) -> list[Parts]:
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
    folds: list[Parts] = []
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
    turn: dict[str, int] = {}
    chosen = set()
    pairs = sorted(zip(names, labels, strict=True), key=lambda pair: natural_order(pair[0]))
    for name, label in pairs:
        if turn.setdefault(label, 0) % 5 == 0:
            chosen.add(name)
        turn[label] += 1
    for alike in together:
        if not alike <= chosen:
            chosen -= alike
    return frozenset(chosen)


def _without(speakers: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    return tuple(speaker for speaker in speakers if speaker not in taken)
