from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from servax.errors import ShapeError
from servax.evaluation.metrics import recall_by_class, tally, uar_by_group

CLASSES = ["angry", "happy", "neutral", "sad"]


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, (3, N) predictions, and speakers of whom the last has only two classes."""
    rng = np.random.default_rng(0)
    speakers = np.array([f"s{i}" for i in rng.integers(0, 5, 200)])
    labels = np.array(CLASSES)[rng.integers(0, 4, 200)]
    labels[speakers == "s4"] = np.where(labels[speakers == "s4"] < "m", "angry", "sad")
    guesses = np.array(CLASSES)[rng.integers(0, 4, (3, 200))]
    return labels, np.where(rng.uniform(size=(3, 200)) < 0.5, labels, guesses), speakers


def test_uar_by_group_is_scikit_learns(answers) -> None:
    labels, predictions, speakers = answers
    found = uar_by_group(labels, predictions, speakers)
    assert list(found) == ["s0", "s1", "s2", "s3", "s4"]
    for name, value in found.items():
        rows = speakers == name
        # balanced_accuracy_score warns where a class is predicted only; recall_score does not.
        present = sorted(set(labels[rows]))
        expected = np.mean(
            [
                recall_score(labels[rows], cell[rows], labels=present, average="macro")
                for cell in predictions
            ]
        )
        assert value == pytest.approx(expected, abs=1e-12)
    everyone = uar_by_group(labels, predictions[0], np.full(200, "all"))
    assert everyone["all"] == pytest.approx(balanced_accuracy_score(labels, predictions[0]))


def test_recall_by_class_is_scikit_learns(answers) -> None:
    labels, predictions, _ = answers
    found = recall_by_class(labels, predictions)
    expected = np.mean(
        [recall_score(labels, cell, labels=CLASSES, average=None) for cell in predictions], axis=0
    )
    assert list(found) == CLASSES
    assert list(found.values()) == pytest.approx(expected.tolist())


def test_tally_adds_up_to_the_confusion_matrix(answers) -> None:
    labels, predictions, speakers = answers
    counted = tally(labels, predictions, speakers)
    for k, cell in enumerate(predictions):
        matrix = confusion_matrix(labels, cell, labels=CLASSES)
        assert counted.hits[k].sum(axis=0).tolist() == np.diagonal(matrix).tolist()
        assert counted.totals.sum(axis=0).tolist() == matrix.sum(axis=1).tolist()


def test_refuses() -> None:
    with pytest.raises(
        ShapeError, match=r"^groups has shape \(1,\), expected \(2,\), the shape of"
    ):
        uar_by_group([0, 1], [0, 1], ["a"])
    with pytest.raises(ShapeError, match=r"^predictions has shape \(3,\), expected \(2,\)"):
        uar_by_group([0, 1], [0, 1, 1], ["a", "b"])
    with pytest.raises(ShapeError, match=r"^predictions has shape \(0, 2\), expected \(N,\) or"):
        recall_by_class([0, 1], np.empty((0, 2), dtype=int))
