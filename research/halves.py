"""The two halves of RAVDESS that purifiers are trained on, and the six groups they are tested on.

A purifier that is tested on groups 1 to 3 hears groups 4 to 6 only, and the other way round: two
trainings serve all six groups. Groups are those of `servax run` with `groups: 6`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from servax.corpora import Corpus, Fold, load
from servax.corpora.folders import cache_folder
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
    return extract(corpus(scheme), FrontEnd(FrontEndSettings()), folder=cache_folder() / "features")


def speakers(half: str) -> list[str]:
    """Return the speakers of a half."""
    return sorted(
        str(speaker) for group in HALVES[half] for speaker in folds()[group - 1].test.speakers
    )


@cache
def scale(half: str) -> Scaling:
    """Return the scale fitted on the speakers of a half."""
    return fit_scale(_part(half, "four"), features("four"))


@cache
def dataset(half: str, *, scheme: str) -> Dataset:
    """Return the utterances of a half, scaled on the same half."""
    return Dataset(_part(half, scheme), features(scheme), scale(half))


def _part(half: str, scheme: str) -> Corpus:
    whole = corpus(scheme)
    table = whole.utterances
    chosen = table[table["speaker"].astype(str).isin(speakers(half))].reset_index(drop=True)
    return replace(whole, utterances=chosen)
