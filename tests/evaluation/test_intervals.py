from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from servax.errors import SettingError, ShapeError
from servax.evaluation import metrics
from servax.evaluation.intervals import over_folds, speaker_interval


def test_equals_scipy_percentile_bootstrap_over_speakers() -> None:
    rng = np.random.default_rng(3)
    speakers = np.repeat([f"s{i}" for i in range(9)], 7)
    right = rng.uniform(size=speakers.size) < np.repeat(rng.uniform(0.2, 0.9, 9), 7)
    found = speaker_interval(
        lambda rows: float(right[rows].mean()), speakers, generator=np.random.default_rng(5)
    )
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
    right = np.repeat(np.arange(8) < 4, 25).astype(float)  # all or nothing by speaker

    def width(who: np.ndarray) -> float:
        drawn = speaker_interval(
            lambda rows: float(right[rows].mean()), who, generator=np.random.default_rng(0)
        )
        return drawn.high - drawn.low

    assert width(speakers) > 3 * width(np.arange(speakers.size))


def test_seeded_and_takes_any_statistic() -> None:
    labels = np.array(list("abababab"))
    predictions = np.array(list("aaababbb"))
    speakers = np.array(list("11223344"))

    def uar(rows: np.ndarray) -> float:
        return metrics.uar(labels[rows], predictions[rows])

    first = speaker_interval(uar, speakers, generator=np.random.default_rng(1), resamples=200)
    again = speaker_interval(uar, speakers, generator=np.random.default_rng(1), resamples=200)
    assert first == again
    assert 0 <= first.low < metrics.uar(labels, predictions) < first.high <= 1


def test_undefined_draws_are_left_out() -> None:
    values = np.array([np.nan, 1.0])
    found = speaker_interval(
        lambda rows: float(values[rows].mean()), ["a", "b"], generator=np.random.default_rng(0)
    )
    assert (found.low, found.high) == (1.0, 1.0)
    empty = speaker_interval(
        lambda rows: float("nan"), ["a", "b"], generator=np.random.default_rng(0), resamples=5
    )
    assert math.isnan(empty.low)
    assert math.isnan(empty.high)


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
    with pytest.raises(error, match=sentence):
        speaker_interval(lambda rows: 0.0, speakers, generator=np.random.default_rng(0), **settings)


def test_over_folds_refuses() -> None:
    with pytest.raises(
        SettingError, match=r"^values is \[\], expected one value per fold, at least"
    ):
        over_folds([])
    with pytest.raises(ShapeError, match=r"^values has shape \(1, 1\), expected \(N,\): one value"):
        over_folds([[1.0]])
