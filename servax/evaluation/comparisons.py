"""Is one defence better than another on the same utterances? Paired tests and Holm's correction.

The first test swaps whole **speakers**. Under the null hypothesis it does not matter which of the
two defences gave a speaker's predictions, so each speaker's may be swapped, all folds, seeds and
conditions of the speaker together. The pooled UAR is linear in the right answers of each class, and
a swap leaves the class totals as they are: the difference of two UARs is a sum of one term per
speaker, and a swap turns its sign. So 2^S swaps are 2^S signs of S numbers (Fisher's randomisation
test for pairs; Fisher, The Design of Experiments, 1935, section 21).

McNemar's test is the second look. It takes utterances as independent, which those of one speaker
are not, so its p-values are too small where speakers differ.

Both speak of the trained models at hand; what another training would give is what seeds are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from servax.errors import SettingError, ShapeError
from servax.evaluation import metrics
from servax.evaluation.breakdown import tally

__all__ = ["EXACT_SPEAKERS", "Comparison", "Discordance", "holm", "mcnemar", "speaker_permutation"]

EXACT_SPEAKERS = 30
"""Up to so many speakers every swap is counted; beyond, swaps are drawn."""

_TIE = 1e-10  # sums of the same terms in another order differ by rounding, and must count as equal


@dataclass(frozen=True)
class Comparison:
    """Difference of two defences and how often swapped speakers give one as large."""

    difference: float
    """UAR of the first minus UAR of the second, a share in [−1, 1]."""
    p: float
    """Two-sided p-value, the observed order among the swaps counted."""
    speakers: int
    """How many speakers could be swapped."""
    exact: bool
    """Whether all swaps were counted, or some drawn."""
    smallest_p: float
    """The smallest p-value that so many speakers, or so many draws, can give."""


@dataclass(frozen=True)
class Discordance:
    """Utterances on which two defences differ, and McNemar's p-value for them."""

    first_only: int
    """Right with the first defence only."""
    second_only: int
    """Right with the second defence only."""
    p: float
    """Two-sided exact p-value; 1 when there is no such utterance."""


def speaker_permutation(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    speakers: ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = 9999,
    exact_speakers: int = EXACT_SPEAKERS,
) -> Comparison:
    """Compare the pooled UAR of two defences by swapping their predictions within speakers.

    Args:
        labels: (N,) true classes.
        first: (N,) predictions with the first defence, or (K, N) for the mean over K conditions.
        second: predictions with the second defence, in the shape of `first`.
        speakers: (N,) speaker of each utterance.
        generator: source of the draws; not touched when every swap is counted.
        resamples: how many swaps to draw where there are too many to count.
        exact_speakers: up to how many speakers every swap is counted.

    Returns:
        The difference and its p-value: the share of the 2^S swaps whose difference is at least as
        large, in either direction; or (b + 1) / (n + 1) when b of n drawn ones are (Phipson and
        Smyth, 2010).

    Raises:
        SettingError: fewer than two speakers, or `resamples` or `exact_speakers` below 1; or as in
            `servax.evaluation.metrics.validate`.
        ShapeError: `first` and `second` differ in shape, or as in `servax.evaluation.breakdown`.

    Example:
        >>> right, wrong = [0, 1, 0, 1], [1, 0, 1, 0]
        >>> seeded = np.random.default_rng(0)
        >>> speaker_permutation(right, right, wrong, ["a", "a", "b", "b"], generator=seeded).p
        0.5
    """
    for name, value in (("resamples", resamples), ("exact_speakers", exact_speakers)):
        if value < 1:
            raise SettingError(name, value, "a whole number >= 1")
    if np.shape(first) != np.shape(second):
        raise ShapeError("second", np.shape(second), f"{np.shape(first)}, the shape of first")
    ours, theirs = tally(labels, first, speakers), tally(labels, second, speakers)
    count = ours.groups.size
    if count < 2:
        raise SettingError("the number of speakers", count, "at least 2 to swap")
    weights = ours.classes.size * ours.totals.sum(axis=0)  # (C,)
    terms = ((ours.hits - theirs.hits) / weights).sum(axis=2).mean(axis=0)  # (S,)
    exact = count <= exact_speakers
    return Comparison(
        difference=float(terms.sum()),
        p=_counted(terms) if exact else _drawn(terms, generator, resamples),
        speakers=count,
        exact=exact,
        smallest_p=2.0 ** (1 - count) if exact else 1 / (resamples + 1),
    )


def _counted(terms: NDArray[np.float64]) -> float:
    """Return the share of all sign patterns whose sum is as far from 0 as the sum of `terms`.

    Every pattern is one of the first half of the speakers joined to one of the second half. With
    the sums of one half sorted, those that go with a sum of the other are found by bisection: 2^S
    patterns cost 2^(S/2) steps (Horowitz and Sahni, Journal of the ACM 21, 1974).
    """
    observed = abs(float(terms.sum())) - _TIE
    if observed <= 0:
        return 1.0
    half = terms.size // 2
    left, right = _signed_sums(terms[:half]), np.sort(_signed_sums(terms[half:]))
    above = right.size * left.size - int(np.searchsorted(right, observed - left).sum())
    # Turning all signs turns the sum: as many patterns lie below as above.
    return 2 * above / (right.size * left.size)


def _signed_sums(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (2^S,) sums of `terms` under every pattern of signs."""
    sums = np.zeros(1)
    for term in terms:
        sums = np.concatenate([sums - term, sums + term])
    return sums


def _drawn(terms: NDArray[np.float64], generator: np.random.Generator, resamples: int) -> float:
    signs = 2.0 * generator.integers(0, 2, (resamples, terms.size)) - 1
    extreme = np.abs(signs @ terms) >= abs(float(terms.sum())) - _TIE
    return (int(extreme.sum()) + 1) / (resamples + 1)


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Discordance:
    """Compare two defences on the utterances that only one of them gets right.

    Under the null hypothesis each defence is the right one in half of them: an exact binomial test
    (McNemar, Psychometrika 12, 1947).

    Args:
        labels: (N,) true classes.
        first: (N,) predictions with the first defence.
        second: (N,) predictions with the second defence.

    Raises:
        ShapeError, SettingError: see `servax.evaluation.metrics.validate`.

    Example:
        >>> mcnemar([0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 0])
        Discordance(first_only=3, second_only=0, p=0.25)
    """
    truth, ours, theirs = metrics.validate(labels, first=first, second=second)
    first_only = int(np.sum((ours == truth) & (theirs != truth)))
    second_only = int(np.sum((ours != truth) & (theirs == truth)))
    trials = first_only + second_only
    p = float(stats.binomtest(first_only, trials).pvalue) if trials else 1.0
    return Discordance(first_only, second_only, p)


def holm(p_values: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    """Return p-values adjusted for their number by Holm's step-down procedure.

    Rejecting every test whose adjusted p-value is at most α keeps the chance of any false
    rejection in the family at α, whatever the dependence between tests. The i-th smallest of m
    becomes the largest of (m − j + 1) · p_j over j ≤ i, at most 1 (Holm, Scandinavian Journal of
    Statistics 6, 1979).

    Args:
        p_values: (M,) p-values of one family; ``nan`` is a test that was not made, stays ``nan``
            and does not count in m.

    Returns:
        (M,) adjusted p-values, in the order given.

    Raises:
        ShapeError: not one-dimensional.
        SettingError: a value outside 0 … 1.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    given = np.asarray(p_values, dtype=np.float64)
    if given.ndim != 1:
        raise ShapeError("p_values", given.shape, "(M,): one value per test")
    made = np.flatnonzero(~np.isnan(given))
    outside = given[made][(given[made] < 0) | (given[made] > 1)]
    if outside.size:
        raise SettingError("a p-value", float(outside[0]), "a number from 0 to 1")
    order = made[np.argsort(given[made], kind="stable")]
    steps = (made.size - np.arange(made.size)) * given[order]
    adjusted = np.full(given.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
