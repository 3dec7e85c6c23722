"""How sure a number is, and whether one defence is better than another.

**Intervals** are a percentile bootstrap over speakers. Utterances of one speaker are alike, so
resampling utterances gives intervals that are far too narrow: whole speakers are drawn with
replacement, each with all of its rows. The statistic of a draw needs only counts per speaker, so a
thousand draws are one product of matrices. All numbers share the draws, so the difference of two of
them is paired. Of fewer than `FEWEST_SPEAKERS` no report shows an interval: so few can be drawn in
too few ways, and the ends would say nothing of others.

**Tests** swap whole speakers. Under the null hypothesis it does not matter which of the two
defences gave a speaker's predictions, so each speaker's may be swapped, all folds, seeds and
conditions of the speaker together. The pooled UAR is linear in the right answers of each class, and
a swap leaves the class totals as they are: the difference of two UARs is a sum of one term per
speaker, and a swap turns its sign. So 2^S swaps are 2^S signs of S numbers (Fisher's randomisation
test for pairs; Fisher, The Design of Experiments, 1935, section 21).

McNemar's test is the second look. It takes utterances as independent, which those of one speaker
are not, so its p-values are too small where speakers differ. Both speak of the trained models at
hand; what another training would give is what seeds are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from servax.errors import SettingError, ShapeError
from servax.evaluation import metrics

RESAMPLES = 1000
"""Sets of speakers drawn for an interval."""
SEED = 0
"""Of the draws of a report."""
LEVEL = 0.95
"""Coverage of an interval."""
FEWEST_SPEAKERS = 5
"""Of how many speakers a report shows an interval at least."""


def no_interval(speakers: int) -> str:
    """Return why so many speakers have no interval, one sentence; empty where they have one."""
    if speakers >= FEWEST_SPEAKERS:
        return ""
    those = "1 speaker says" if speakers == 1 else f"{speakers} speakers say"
    return f"There is no interval: {those} too little of others; it takes {FEWEST_SPEAKERS}."


class Interval(NamedTuple):
    """A range that a statistic stays in when other speakers of the same kind are drawn."""

    low: float
    """Lower end, in the unit of the statistic."""
    high: float
    """Upper end, in the unit of the statistic."""


@dataclass(frozen=True)
class MeanSd:
    """Mean and population standard deviation over folds.

    The paper's σ (1.86 and 2.14 over the intensities of SSAD) divide by n, so these do too. The
    sd of a single fold is thus 0 and says nothing: look at `count`.
    """

    mean: float
    """Mean over the folds in which the statistic is defined."""
    sd: float
    """Standard deviation that divides by `count`; 0 for a single fold."""
    count: int
    """How many folds that is."""


class SpeakerDraws:
    """Sets of speakers drawn with replacement, as many as there are, each with all of its rows.

    Args:
        speakers: (N,) speaker of each row.
        resamples: R, how many sets to draw.
        seed: The same seed gives the same draws for the same number of speakers.

    Raises:
        SettingError: Fewer than two speakers, or no resamples.
        ShapeError: `speakers` is not one-dimensional.

    Example:
        >>> draws = SpeakerDraws(["a", "a", "b", "b"])
        >>> interval_of(draws.uar([0, 1, 0, 1], [0, 1, 1, 0]))
        Interval(low=0.0, high=1.0)
    """

    def __init__(
        self, speakers: ArrayLike, *, resamples: int = RESAMPLES, seed: int = SEED
    ) -> None:
        who = np.asarray(speakers)
        if who.ndim != 1:
            raise ShapeError("speakers", who.shape, "(N,): one entry per row")
        if resamples < 1:
            raise SettingError("resamples", resamples, "a whole number >= 1")
        names, self._speaker = np.unique(who, return_inverse=True)
        if names.size < 2:
            raise SettingError("the number of speakers", names.size, "at least 2 to draw from")
        drawn = np.random.default_rng(seed).integers(0, names.size, (resamples, names.size))
        # (R, S): how often each speaker was drawn.
        self._times = np.stack([np.bincount(d, minlength=names.size) for d in drawn])

    @classmethod
    def of(cls, speakers: ArrayLike) -> SpeakerDraws | None:
        """Return the draws of a report, or None where there are too few speakers for intervals."""
        return None if no_interval(np.unique(np.asarray(speakers)).size) else cls(speakers)

    def uar(self, labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
        """Return the UAR of each draw, (R,): of K conditions their mean.

        Args:
            labels: (N,) true classes.
            predictions: (N,) or (K, N) predicted classes.
        """
        counted = metrics.tally(labels, predictions, self._speaker)
        totals, hits = self._times @ counted.totals, self._times @ counted.hits  # (R, C), (K, R, C)
        held = totals > 0  # a class that no drawn speaker has does not count
        recalls = np.divide(hits, totals, out=np.zeros(hits.shape), where=held)
        return np.asarray((recalls.sum(axis=2) / held.sum(axis=1)).mean(axis=0), dtype=np.float64)

    def means(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the mean of `values` (N,) over the rows of each draw, (R,)."""
        each = np.asarray(values, dtype=np.float64)
        return self.counts(each) / self.counts(np.ones_like(each))

    def counts(self, which: NDArray[np.bool_ | np.float64]) -> NDArray[np.float64]:
        """Return the (R,) number of rows of each draw that are in `which` (N,), or its sum."""
        per_speaker = np.bincount(self._speaker, weights=which, minlength=self._times.shape[1])
        return np.asarray(self._times @ per_speaker, dtype=np.float64)


def interval_of(values: NDArray[np.float64], *, level: float = LEVEL) -> Interval:
    """Return the percentile interval of one value per draw (R,); ``nan`` where none is defined.

    Draws on which the value is ``nan`` are left out.

    Raises:
        SettingError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise SettingError("level", level, "a number between 0 and 1")
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def over_folds(values: ArrayLike) -> MeanSd:
    """Return mean and population sd of one value per fold, leaving ``nan`` folds out.

    Both are ``nan``, and the count 0, when every fold is ``nan``.

    Raises:
        ShapeError: `values` is not one-dimensional.
        SettingError: `values` is empty.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ShapeError("values", numbers.shape, "(N,): one value per fold")
    if numbers.size == 0:
        raise SettingError("values", [], "one value per fold, at least one")
    numbers = numbers[~np.isnan(numbers)]
    mean = float(numbers.mean()) if numbers.size else float("nan")
    sd = float(numbers.std()) if numbers.size else float("nan")
    return MeanSd(mean, sd, int(numbers.size))


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
            `metrics.validate`.
        ShapeError: `first` and `second` differ in shape, or as in `metrics.tally`.

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
    ours, theirs = metrics.tally(labels, first, speakers), metrics.tally(labels, second, speakers)
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
