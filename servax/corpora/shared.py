"""Folds in which every speaker may stand on both sides: by text, and as published.

Speakers can be recognised only where they have trained, so what is kept apart is something else:
the text (text-independent speaker recognition), or the recordings of a published test set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from servax.corpora.fold import Fold
from servax.corpora.leaks import Apart
from servax.corpora.partition import every_fifth, natural_order
from servax.errors import SettingError

if TYPE_CHECKING:
    from servax.corpora.corpus import Corpus

__all__ = ["leave_one_text_out", "official"]


def leave_one_text_out(corpus: Corpus) -> list[Fold]:
    """Return one fold per text, in natural order: it tests, a fifth of the others validates.

    Raises:
        SettingError: An utterance has no text, there are fewer than two, or a class has one alone.
        LeakError: A recording stands in two parts of a fold.
    """
    texts = corpus.utterances["text"]
    names = sorted(set(texts), key=natural_order)
    if "" in names or len(names) < 2:
        given = f"{(texts == '').sum()} utterances without a text" if "" in names else "one text"
        raise SettingError(
            "groups", "text", f"a corpus of at least 2 texts, {corpus.name} has {given}"
        )
    return [
        _fold(corpus, index, np.asarray(texts == name), groups="text", apart="text")
        for index, name in enumerate(names)
    ]


def official(corpus: Corpus) -> Fold:
    """Return the published split; a fifth of its training set validates.

    Raises:
        SettingError: No split was published for this corpus, one of its sides is empty, or a
            class stands in the test set alone.
        LeakError: A recording stands in two parts.
    """
    is_test = corpus.description.official_test if corpus.description else None
    if is_test is None:
        raise SettingError(
            "groups",
            "official",
            f"a whole number, 'speaker' or 'text': {corpus.name} has no official split",
        )
    test = np.array([is_test(str(name)) for name in corpus.utterances["utterance"]])
    if test.all() or not test.any():
        raise SettingError(
            "groups",
            "official",
            f"a corpus with both of its sets, {test.sum()} of {len(test)} utterances are for test",
        )
    return _fold(corpus, 0, test, groups="official", apart="utterance")


def _fold(
    corpus: Corpus, index: int, test: npt.NDArray[np.bool_], *, groups: str, apart: Apart
) -> Fold:
    """Return a fold of which `test` (N,) is given; every fifth of each class validates."""
    table = corpus.utterances
    rest = table[~test]
    # A pair that was published twice must not be parted.
    twice = corpus.description.known_duplicates if corpus.description else ()
    chosen = every_fifth(list(rest["utterance"]), list(rest["label"]), together=twice)
    validation = np.asarray(table["utterance"].isin(chosen)) & ~test
    train = ~test & ~validation
    unknown = sorted(set(table["label"][~train]) - set(table["label"][train]), key=natural_order)
    if unknown:
        raise SettingError(
            "groups",
            groups,
            f"a division in which every class trains: {unknown[0]!r} would only be tested",
        )
    return Fold(
        index,
        train=corpus.subset(train),
        validation=corpus.subset(validation),
        test=corpus.subset(test),
        apart=apart,
    )
