"""Classes of a corpus in the order of a model, whatever each calls them."""

from __future__ import annotations

import pytest
import torch

from servax.errors import SettingError
from servax.evaluation.dataset import align_labels

CORPUS = ("angry", "happy", "neutral", "sad")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (CORPUS, [0, 1, 2, 3]),
        (("sad", "neutral", "happy", "angry"), [3, 2, 1, 0]),
        (("neu", "hap", "ang", "sad"), [2, 1, 0, 3]),
        (("NEUTRAL", "Happiness", " Anger", "Sadness"), [2, 1, 0, 3]),
        (("calm", "angry", "sad", "fear", "happy", "neutral"), [1, 4, 5, 2]),
    ],
)
def test_places(model: tuple[str, ...], expected: list[int]) -> None:
    index = align_labels(model, CORPUS)
    assert index.dtype == torch.int64
    assert index.tolist() == expected
    classes = torch.tensor([3, 0, 0, 2])
    named = [model[i] for i in index[classes].tolist()]
    assert [name.strip().lower()[:3] for name in named] == ["sad", "ang", "ang", "neu"]


def test_words_that_are_no_emotions_are_found_too() -> None:
    assert align_labels(["Two", "one", "zero"], ["zero", "one"]).tolist() == [2, 1]


def test_the_same_spelling_wins_over_another() -> None:
    assert align_labels(["anger", "angry"], ["angry"]).tolist() == [1]


@pytest.mark.parametrize(
    ("model", "corpus", "missing"),
    [
        (("LABEL_0", "LABEL_1", "LABEL_2", "sad"), CORPUS, "'angry', 'happy', 'neutral'"),
        (("angry", "sad"), CORPUS, "'happy', 'neutral'"),
        (("ang", "anger", "sad"), ("angry", "sad"), "'angry'"),  # could be two of the model's
        (("angry", "sad"), ("ang", "anger"), "'ang', 'anger'"),  # both would be one class
    ],
)
def test_refusals_name_both_lists_and_the_option(
    model: tuple[str, ...], corpus: tuple[str, ...], missing: str
) -> None:
    with pytest.raises(SettingError, match=r"labels=") as refusal:
        align_labels(model, corpus)
    assert str(list(model)) in str(refusal.value)
    assert str(list(corpus)) in str(refusal.value)
    assert f"which {missing} has not" in str(refusal.value)
