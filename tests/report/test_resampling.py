"""The fast bootstrap against the plain one, which redraws and rescores every row."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from servax.evaluation.intervals import speaker_interval
from servax.report.resampling import SpeakerDraws, interval_of


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return speakers, labels and (2, N) predictions; two speakers lack a class each."""
    rng = np.random.default_rng(3)
    speakers = np.repeat(["a", "b", "c", "d", "e"], [9, 12, 5, 7, 10])
    labels = rng.integers(0, 3, speakers.size)
    labels[speakers == "c"] = 1
    labels[(speakers == "d") & (labels == 2)] = 0
    return speakers, labels, rng.integers(0, 4, (2, speakers.size))


def test_uars_are_scikit_learn_on_the_drawn_rows(
    made: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    speakers, labels, cells = made
    found = SpeakerDraws(speakers, resamples=40, seed=2).uars(labels, cells)
    names = np.unique(speakers)
    drawn = np.random.default_rng(2).integers(0, names.size, (40, names.size))
    for draw, value in zip(drawn, found, strict=True):
        rows = np.concatenate([np.flatnonzero(speakers == names[i]) for i in draw])
        kept = np.isin(cells[:, rows], labels[rows]).all()
        uars = [
            np.mean([np.mean(cell[rows][labels[rows] == c] == c) for c in np.unique(labels[rows])])
            for cell in cells
        ]
        assert value == pytest.approx(100 * np.mean(uars))
        if kept:  # scikit-learn warns of predictions that no row has
            scored = [balanced_accuracy_score(labels[rows], cell[rows]) for cell in cells]
            assert value == pytest.approx(100 * np.mean(scored))


def test_interval_is_that_of_the_plain_bootstrap(
    made: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    speakers, labels, cells = made

    def share(rows: np.ndarray) -> float:
        return float(np.mean(cells[0][rows] == labels[rows]))

    plain = speaker_interval(share, speakers, generator=np.random.default_rng(0), resamples=300)
    draws = SpeakerDraws(speakers, resamples=300, seed=0)
    right = draws.counts(cells[0] == labels) / draws.counts(np.ones(labels.size, dtype=bool))
    fast = interval_of(right)
    assert (fast.low, fast.high) == pytest.approx((plain.low, plain.high))


def test_undefined_draws_do_not_count() -> None:
    values = np.array([np.nan, *np.linspace(0, 1, 101), np.nan])
    interval = interval_of(values)
    assert (interval.low, interval.high) == pytest.approx((0.025, 0.975))
    nothing = interval_of(np.full(3, np.nan))
    assert np.isnan(nothing.low)
    assert np.isnan(nothing.high)
