from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    recall_score,
)

from servax.errors import SettingError, ShapeError
from servax.evaluation import metrics

CLASSES = ["angry", "happy", "neutral", "sad"]


def draw(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = np.array(CLASSES)
    labels = names[rng.choice(4, count, p=[0.5, 0.3, 0.15, 0.05])]
    return labels, np.where(rng.uniform(size=count) < 0.6, labels, rng.permutation(labels))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed: int) -> None:
    labels, predictions = draw(seed)
    assert metrics.uar(labels, predictions) == pytest.approx(
        balanced_accuracy_score(labels, predictions), abs=1e-12
    )
    assert metrics.weighted_accuracy(labels, predictions) == pytest.approx(
        accuracy_score(labels, predictions), abs=1e-12
    )
    order = CLASSES[::-1]
    np.testing.assert_array_equal(
        metrics.confusion(labels, predictions, order),
        confusion_matrix(labels, predictions, labels=order),
    )
    np.testing.assert_allclose(
        list(metrics.recall_by_class(labels, predictions).values()),
        recall_score(labels, predictions, labels=np.unique(labels), average=None),
    )


def test_a_class_that_is_only_predicted_does_not_count() -> None:
    labels, predictions = ["a", "a", "b", "b"], ["a", "c", "b", "b"]
    # Worked by hand; recall_score(average="macro") would say .5 for the same input.
    assert metrics.uar(labels, predictions) == 0.75
    assert metrics.recall_by_class(labels, predictions) == {"a": 0.5, "b": 1.0}


def test_confusion_by_hand_with_numbers() -> None:
    counts = metrics.confusion([0, 0, 1, 2], [0, 1, 1, 0], range(3))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.dtype == np.int64


# Ten utterances: clean-correct are the first six. The attack turns four of them, the defence
# leaves two turned (one of them that the attack had not turned), and of the four clean errors one
# comes out right.
LABELS = list("aaaaabbbbb")
CLEAN = list("aaaaabaaaa")
ATTACKED = list("bbbaaabbaa")
PROTECTED = list("baaabbbaaa")


def test_protection_efficacy_by_hand() -> None:
    assert metrics.protection_efficacy(LABELS, CLEAN, ATTACKED, PROTECTED) == pytest.approx(
        (4 / 6 - 2 / 6) / (4 / 6)
    )


def test_recovery_and_harm_by_hand() -> None:
    assert metrics.recovery_rate(LABELS, CLEAN, PROTECTED) == pytest.approx(1 / 4)
    assert metrics.harm_rate(LABELS, CLEAN, PROTECTED) == pytest.approx(2 / 6)


def test_protection_is_one_for_full_negative_for_a_harmful_defence() -> None:
    assert (
        metrics.protection_efficacy(list("aaaa"), list("aaab"), list("baab"), list("aaab")) == 1.0
    )
    worse = metrics.protection_efficacy(list("aaa"), list("aaa"), list("baa"), list("bba"))
    assert worse == pytest.approx(-1.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_measures_fit_together(seed: int) -> None:
    # Accuracy under attack with the defence = what stays right + what comes right.
    labels, clean = draw(seed)
    _, attacked = draw(seed + 10)
    _, protected = draw(seed + 20)
    accuracy = accuracy_score(labels, clean)
    risk = np.mean((attacked != labels)[clean == labels])
    efficacy = metrics.protection_efficacy(labels, clean, attacked, protected)
    recovery = metrics.recovery_rate(labels, clean, protected)
    expected = accuracy * (1 - risk * (1 - efficacy)) + (1 - accuracy) * recovery
    assert accuracy_score(labels, protected) == pytest.approx(expected)


def test_shares_of_nothing_are_nan() -> None:
    right, wrong = list("aab"), list("bba")
    assert math.isnan(metrics.protection_efficacy(right, wrong, wrong, right))  # none clean-correct
    assert math.isnan(metrics.protection_efficacy(right, right, right, wrong))  # R_no = 0
    assert math.isnan(metrics.harm_rate(right, wrong, right))
    assert math.isnan(metrics.recovery_rate(right, right, wrong))  # no clean error


def test_takes_booleans_and_object_arrays() -> None:
    assert metrics.uar([True, False], [True, True]) == 0.5
    assert metrics.uar(np.array(["a", "b"], dtype=object), ["a", "b"]) == 1.0


@pytest.mark.parametrize(
    ("labels", "predictions", "error", "sentence"),
    [
        ([], [], SettingError, r"^labels is \[\], expected at least one utterance\.$"),
        (
            ["a", "b"],
            ["a"],
            ShapeError,
            r"^predictions has shape \(1,\), expected \(2,\), the shape of labels\.$",
        ),
        (
            [[0, 1]],
            [[0, 1]],
            ShapeError,
            r"^labels has shape \(1, 2\), expected \(N,\): one entry per utterance\.$",
        ),
        (
            ["a", "b"],
            [0, 1],
            SettingError,
            r"^the kind of predictions is 'class numbers', expected class names, as in labels\.$",
        ),
        (
            [0.0, 1.0],
            [0, 1],
            SettingError,
            r"^the type of labels is 'float64', expected class names \(str\) or class numbers "
            r"\(int\)\.$",
        ),
        (
            np.array(["a", None], dtype=object),
            ["a", "b"],
            SettingError,
            r"^the type of labels is 'object', expected class names \(str\) or class numbers "
            r"\(int\)\.$",
        ),
    ],
)
def test_refuses(labels, predictions, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        metrics.uar(labels, predictions)


def test_confusion_refuses_foreign_and_repeated_classes() -> None:
    sentence = (
        r"^a value of predictions is 'sat', expected one of angry, sad\. Did you mean 'sad'\?$"
    )
    with pytest.raises(SettingError, match=sentence):
        metrics.confusion(["sad"], ["sat"], ["angry", "sad"])
    with pytest.raises(
        SettingError, match=r"^classes is \['a', 'a'\], expected each class once\.$"
    ):
        metrics.confusion(["a"], ["a"], ["a", "a"])
