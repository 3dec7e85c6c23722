from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from servax.errors import SettingError, ShapeError
from servax.evaluation.statistics import holm, mcnemar, speaker_permutation


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


def made_up(
    speakers: int, conditions: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, two sets of (K, N) predictions and speakers of unlike sizes."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), rng.integers(4, 9, speakers))
    labels = rng.integers(0, 3, who.size)
    first, second = (
        np.where(rng.uniform(size=(conditions, who.size)) < share, labels, (labels + 1) % 3)
        for share in (0.7, 0.5)
    )
    return labels, first, second, who


@pytest.mark.parametrize(("speakers", "conditions", "seed"), [(5, 1, 1), (6, 2, 2), (7, 1, 3)])
def test_exact_equals_scipy_on_scikit_learns_uar(speakers, conditions, seed) -> None:
    labels, first, second, who = made_up(speakers, conditions, seed)
    both = np.stack([first, second])

    def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
        # Each entry names a speaker (its remainder) and whose predictions to take (its quotient).
        def uar(pick: np.ndarray) -> float:
            taken = np.empty_like(first)
            for entry in pick.astype(int):
                rows = who == entry % speakers
                taken[:, rows] = both[entry // speakers][:, rows]
            return float(np.mean([balanced_accuracy_score(labels, cell) for cell in taken]))

        return uar(ours) - uar(theirs)

    ids = np.arange(speakers)
    oracle = stats.permutation_test(
        (ids, ids + speakers),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=np.inf,
    )
    found = speaker_permutation(labels, first, second, who, generator=seeded())
    assert found.exact
    assert found.speakers == speakers
    assert found.difference == pytest.approx(oracle.statistic, abs=1e-12)
    assert found.p == pytest.approx(oracle.pvalue, abs=1e-12)
    assert found.smallest_p == 2 / 2**speakers


@pytest.mark.parametrize("better", [12, 15, 18, 24])
def test_speakers_of_equal_weight_give_the_sign_test(better: int) -> None:
    # Each speaker says each of two classes twice; `better` of 24 gain from the first defence.
    labels, who = np.tile([0, 0, 1, 1], 24), np.repeat(np.arange(24), 4)
    wins = np.repeat(np.arange(24) < better, 4)
    first, second = np.where(wins, labels, 1 - labels), np.where(wins, 1 - labels, labels)
    found = speaker_permutation(labels, first, second, who, generator=seeded())
    assert found.p == pytest.approx(stats.binomtest(better, 24).pvalue, rel=1e-12)
    assert found.difference == pytest.approx((2 * better - 24) / 24)


def test_drawn_swaps_come_near_the_exact_value_and_never_reach_nought() -> None:
    labels, first, second, who = made_up(11, 1, 5)
    exact = speaker_permutation(labels, first[0], second[0], who, generator=seeded())
    drawn = speaker_permutation(
        labels, first[0], second[0], who, generator=seeded(), resamples=20_000, exact_speakers=10
    )
    assert not drawn.exact
    assert drawn.smallest_p == 1 / 20_001
    error = np.sqrt(exact.p * (1 - exact.p) / 20_000)
    assert drawn.p == pytest.approx(exact.p, abs=4 * error)
    wrong = (labels + 1) % 3
    few = speaker_permutation(
        labels, labels, wrong, who, generator=seeded(), resamples=19, exact_speakers=1
    )
    assert few.p == 1 / 20


def test_seeds_of_a_speaker_swap_together() -> None:
    labels, first, second, who = made_up(6, 1, 7)
    once = speaker_permutation(labels, first[0], second[0], who, generator=seeded())
    tiled = [np.tile(column, 3) for column in (labels, first[0], second[0], who)]
    thrice = speaker_permutation(*tiled, generator=seeded())
    assert thrice.p == once.p
    assert thrice.speakers == 6
    assert thrice.difference == pytest.approx(once.difference)


def test_the_same_predictions_are_no_difference() -> None:
    labels, first, _, who = made_up(6, 2, 9)
    for limit in (30, 2):
        found = speaker_permutation(
            labels, first, first, who, generator=seeded(), exact_speakers=limit
        )
        assert (found.difference, found.p) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"speakers": ["a", "a"]}, SettingError, r"^the number of speakers is 1, expected at"),
        ({"speakers": ["a"]}, ShapeError, r"^groups has shape \(1,\), expected \(2,\), the"),
        ({"second": [[0, 1]]}, ShapeError, r"^second has shape \(1, 2\), expected \(2,\)"),
        ({"first": [[[0]]], "second": [[[0]]]}, ShapeError, r"^predictions has shape \(1, 1"),
        ({"resamples": 0}, SettingError, r"^resamples is 0, expected a whole number >= 1\.$"),
        ({"exact_speakers": 0}, SettingError, r"^exact_speakers is 0, expected a whole number"),
    ],
)
def test_permutation_refuses(settings, error, sentence) -> None:
    given = {"first": [0, 1], "second": [0, 1], "speakers": ["a", "b"], **settings}
    with pytest.raises(error, match=sentence):
        speaker_permutation([0, 1], generator=seeded(), **given)


@pytest.mark.parametrize(("first_only", "second_only"), [(0, 1), (3, 12), (9, 4), (5, 5), (40, 18)])
def test_mcnemar_is_the_binomial_sum(first_only: int, second_only: int) -> None:
    trials, least = first_only + second_only, min(first_only, second_only)
    labels = np.zeros(trials + 7, dtype=int)
    first, second = labels.copy(), labels.copy()
    second[:first_only] = 1
    first[first_only:trials] = 1
    first[trials : trials + 3] = second[trials : trials + 3] = 2  # both wrong: not in the test
    found = mcnemar(labels, first, second)
    assert (found.first_only, found.second_only) == (first_only, second_only)
    tail = sum(comb(trials, i) for i in range(least + 1)) / 2**trials
    assert found.p == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_without_a_difference() -> None:
    assert mcnemar(["a", "b"], ["a", "a"], ["a", "a"]).p == 1.0
    with pytest.raises(ShapeError, match=r"^second has shape \(1,\), expected \(2,\)"):
        mcnemar(["a", "b"], ["a", "a"], ["a"])


def test_holm_on_worked_values() -> None:
    # .005 · 4, .01 · 3, .03 · 2, and .04 · 1, which may not fall below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.4]).tolist() == [1.0, 1.0, 1.0]
    assert holm([0.04]).tolist() == [0.04]
    assert holm([]).tolist() == []


def test_holm_leaves_out_tests_that_were_not_made() -> None:
    found = holm([0.01, np.nan, 0.03])
    assert found[[0, 2]].tolist() == [0.02, 0.03]
    assert np.isnan(found[1])


def rejected_by_holm(p_values: np.ndarray, level: float) -> set[int]:
    """Return what the procedure of the 1979 paper rejects, word by word."""
    rejected: set[int] = set()
    left = list(np.argsort(p_values))
    while left and p_values[left[0]] <= level / len(left):
        rejected.add(int(left.pop(0)))
    return rejected


def test_holm_rejects_what_the_procedure_rejects() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        p_values = rng.beta(0.4, 3.0, size=int(rng.integers(1, 12)))
        adjusted = holm(p_values)
        for level in (0.01, 0.05, 0.2, 0.5):
            assert set(np.flatnonzero(adjusted <= level)) == rejected_by_holm(p_values, level)
        in_order = adjusted[np.argsort(p_values)]
        assert all(low <= high <= 1 for low, high in pairwise([0.0, *in_order]))


def test_holm_refuses() -> None:
    with pytest.raises(SettingError, match=r"^a p-value is 1\.5, expected a number from 0 to 1\.$"):
        holm([0.5, 1.5])
    with pytest.raises(ShapeError, match=r"^p_values has shape \(1, 1\), expected \(M,\)"):
        holm([[0.5]])
