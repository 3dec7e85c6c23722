from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from servax.errors import SettingError, ShapeError
from servax.evaluation.metrics import detected_at, roc_area


def scores(kind, seed):
    draws = np.random.default_rng(seed)
    clean, attacked = draws.normal(0, 1, 37), draws.normal(1, 1.5, 23)
    return (clean, attacked) if kind == "smooth" else (clean.round(), attacked.round())


@pytest.mark.parametrize("kind", ["smooth", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_that_of_scikit_learn(kind, seed):
    clean, attacked = scores(kind, seed)
    labels = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
    both = np.r_[clean, attacked]
    false, true, _ = roc_curve(labels, both, drop_intermediate=False)
    for rate in (0.0, 0.05, 0.3, 1.0):
        assert detected_at(clean, attacked, rate) == pytest.approx(true[false <= rate + 1e-9].max())
    assert roc_area(clean, attacked) == pytest.approx(roc_auc_score(labels, both))


@pytest.mark.parametrize(
    ("clean", "attacked", "area"),
    [([1.0, 2.0], [3.0, 4.0], 1.0), ([3.0], [1.0], 0.0), ([5.0, 5.0], [5.0], 0.5)],
)
def test_the_area_by_hand(clean, attacked, area):
    assert roc_area(clean, attacked) == area


def test_the_share_detected_at_a_rate_of_false_positives():
    both = [0.1, 0.2, 0.3, 0.9], [0.2, 0.5, 0.95, 1.0]
    assert detected_at(*both, 0.0) == 0.5
    assert detected_at(*both, 0.24) == 0.5
    assert detected_at(*both, 0.25) == 0.75
    assert detected_at(*both, 1.0) == 1.0
    sentence = "false_positive_rate is 1.5, expected a share in [0, 1]."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        detected_at(*both, 1.5)


@pytest.mark.parametrize(
    ("clean", "attacked", "error", "sentence"),
    [
        ([], [1.0], ShapeError, "clean_scores has shape (0,), expected (N,): one score per input"),
        ([1.0], [[1.0]], ShapeError, "attacked_scores has shape (1, 1), expected (N,)"),
        ([1.0], [np.nan], SettingError, "attacked_scores is 'not finite', expected scores without"),
    ],
)
def test_what_is_no_score_is_refused(clean, attacked, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}"):
        roc_area(clean, attacked)
