from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from bootstrap_by_hand import speaker_interval
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from servax.errors import SettingError, ShapeError
from servax.evaluation import SpeakerDraws, interval_of, over_folds


def test_equals_scipy_percentile_bootstrap_over_speakers() -> None:
    rng = np.random.default_rng(3)
    speakers = np.repeat([f"s{i}" for i in range(9)], 7)
    right = rng.uniform(size=speakers.size) < np.repeat(rng.uniform(0.2, 0.9, 9), 7)
    found = interval_of(SpeakerDraws(speakers, seed=5).uar(np.ones(63, dtype=int), right * 1))
    oracle = stats.bootstrap(
        (right.reshape(9, 7).mean(axis=1),),
        np.mean,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_is_wider_than_a_bootstrap_over_utterances() -> None:
    speakers = np.repeat(np.arange(8), 25)
    right = np.repeat(np.arange(8) < 4, 25).astype(int)  # all or nothing by speaker

    def width(who: np.ndarray) -> float:
        drawn = interval_of(SpeakerDraws(who).uar(np.ones(200, dtype=int), right))
        return drawn.high - drawn.low

    assert width(speakers) > 3 * width(np.arange(speakers.size))


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
    found = SpeakerDraws(speakers, resamples=40, seed=2).uar(labels, cells)
    names = np.unique(speakers)
    drawn = np.random.default_rng(2).integers(0, names.size, (40, names.size))
    for draw, value in zip(drawn, found, strict=True):
        rows = np.concatenate([np.flatnonzero(speakers == names[i]) for i in draw])
        kept = np.isin(cells[:, rows], labels[rows]).all()
        uars = [
            np.mean([np.mean(cell[rows][labels[rows] == c] == c) for c in np.unique(labels[rows])])
            for cell in cells
        ]
        assert value == pytest.approx(np.mean(uars))
        if kept:  # scikit-learn warns of predictions that no row has
            scored = [balanced_accuracy_score(labels[rows], cell[rows]) for cell in cells]
            assert value == pytest.approx(np.mean(scored))


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


def test_over_folds_is_mean_and_population_sd() -> None:
    values = [0.5, 0.7, 0.9, 0.6]
    told = over_folds([*values, float("nan")])
    assert told.mean == pytest.approx(statistics.mean(values))
    assert told.sd == pytest.approx(statistics.pstdev(values))
    assert told.count == 4
    alone = over_folds([0.5, float("nan")])
    assert (alone.sd, alone.count) == (0.0, 1)
    nothing = over_folds([float("nan")])
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.sd)
    assert nothing.count == 0


def test_over_folds_gives_the_papers_sigma() -> None:
    # SSAD's UAR under FGSM and PGD in Table 1; the text prints σ = 1.86 and 2.14.
    fgsm, pgd = [44.82, 43.54, 42.88, 40.46], [39.10, 34.91, 33.21, 33.54, 34.19]
    assert over_folds(pgd).sd == pytest.approx(2.14, abs=0.005)
    assert over_folds([45.94, *fgsm]).sd == pytest.approx(1.86, abs=0.01)


@pytest.mark.parametrize(
    ("speakers", "settings", "error", "sentence"),
    [
        (
            ["a", "a"],
            {},
            SettingError,
            r"^the number of speakers is 1, expected at least 2 to draw from\.$",
        ),
        (
            ["a", "b"],
            {"resamples": 0},
            SettingError,
            r"^resamples is 0, expected a whole number >= 1\.$",
        ),
        (
            ["a", "b"],
            {"level": 95},
            SettingError,
            r"^level is 95, expected a number between 0 and 1\.$",
        ),
        (
            [["a", "b"]],
            {},
            ShapeError,
            r"^speakers has shape \(1, 2\), expected \(N,\): one entry per row\.$",
        ),
    ],
)
def test_refuses(speakers, settings, error, sentence) -> None:
    level = settings.pop("level", 0.95)
    with pytest.raises(error, match=sentence):
        interval_of(SpeakerDraws(speakers, **settings).counts(np.array([True, True])), level=level)


def test_over_folds_refuses() -> None:
    with pytest.raises(
        SettingError, match=r"^values is \[\], expected one value per fold, at least"
    ):
        over_folds([])
    with pytest.raises(ShapeError, match=r"^values has shape \(1, 1\), expected \(N,\): one value"):
        over_folds([[1.0]])
