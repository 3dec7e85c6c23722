"""The two halves of RAVDESS that purifiers are trained on, and the six groups they are tested on.

A purifier that is tested on groups 1 to 3 hears groups 4 to 6 only, and the other way round: two
trainings serve all six groups. Groups are those of `servax run` with `groups: 6`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from servax.corpora import Corpus, Fold, cache_folder, load
from servax.features import (
    Dataset,
    Features,
    FrontEnd,
    FrontEndSettings,
    Scaling,
    extract,
    fit_scale,
)

HALVES = {"first": (1, 2, 3), "last": (4, 5, 6)}
"""Groups of each half."""


@cache
def corpus(scheme: str) -> Corpus:
    """Return RAVDESS speech under a label scheme (`four` has 672 utterances, `native` 1440)."""
    return load("ravdess", scheme=scheme)


@cache
def folds() -> list[Fold]:
    """Return the six folds of the evaluation."""
    return corpus("four").folds(6)


@cache
def features(scheme: str) -> Features:
    """Return the features of all utterances under a label scheme."""
    return _extracted(corpus(scheme))


def speakers(half: str, *, without: int | None = None) -> list[str]:
    """Return the speakers of a half, those of one group left out."""
    groups = [group for group in HALVES[half] if group != without]
    return sorted(str(speaker) for group in groups for speaker in folds()[group - 1].test.speakers)


@cache
def scale(half: str) -> Scaling:
    """Return the scale fitted on the speakers of a half."""
    return fit_scale(_part(half, "four"), features("four"))


@cache
def dataset(half: str, *, scheme: str, without: int | None = None) -> Dataset:
    """Return the utterances of a half, those of one group left out, scaled on the whole half."""
    return Dataset(_part(half, scheme, without), features(scheme), scale(half))


@cache
def foreign(half: str, name: str) -> Dataset:
    """Return all utterances of another corpus, on the scale of a half."""
    other = load(name)
    return Dataset(other, _extracted(other), scale(half))


def group_numbers(half: str, *, scheme: str) -> list[int]:
    """Return the group of each utterance of a half."""
    groups = {str(s): g for g in HALVES[half] for s in folds()[g - 1].test.speakers}
    return [groups[str(speaker)] for speaker in _part(half, scheme).utterances["speaker"]]


def _extracted(whole: Corpus) -> Features:
    return extract(whole, FrontEnd(FrontEndSettings()), folder=cache_folder() / "features")


def _part(half: str, scheme: str, without: int | None = None) -> Corpus:
    whole = corpus(scheme)
    table = whole.utterances
    chosen = table[table["speaker"].astype(str).isin(speakers(half, without=without))].reset_index(
        drop=True
    )
    return replace(whole, utterances=chosen)
