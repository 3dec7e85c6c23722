"""How sure a number is: percentile bootstrap over speakers, and mean ± sd over folds.

Utterances of one speaker are alike, so resampling utterances gives intervals that are far too
narrow. Here whole speakers are drawn with replacement, each with all of its rows. Of fewer than
`FEWEST_SPEAKERS` no report shows an interval: so few can be drawn in too few ways, and the ends
would say nothing of others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servax.errors import SettingError, ShapeError

__all__ = [
    "FEWEST_SPEAKERS",
    "Interval",
    "MeanSd",
    "no_interval",
    "over_folds",
    "speaker_interval",
]

FEWEST_SPEAKERS = 5
"""Of how many speakers a report shows an interval at least."""


def no_interval(speakers: int) -> str:
    """Return why so many speakers have no interval, one sentence; empty where they have one."""
    if speakers >= FEWEST_SPEAKERS:
        return ""
    those = "1 speaker says" if speakers == 1 else f"{speakers} speakers say"
    return f"There is no interval: {those} too little of others; it takes {FEWEST_SPEAKERS}."


@dataclass(frozen=True)
class Interval:
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


def speaker_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    speakers: ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval of `statistic` over speakers.

    Args:
        statistic: maps row numbers (any length, repeats allowed) of the table to one number.
        speakers: (N,) speaker of each row.
        generator: source of the draws; the same seed gives the same interval.
        resamples: how many sets of speakers to draw.
        level: coverage, between 0 and 1.

    Returns:
        The interval. Draws on which the statistic is ``nan`` are left out; ``nan`` at both ends
        when it is ``nan`` on all.

    Raises:
        SettingError: fewer than two speakers, or a bad `resamples` or `level`.
        ShapeError: `speakers` is not one-dimensional.

    Example:
        >>> right = np.array([1.0, 1.0, 0.0, 0.0])
        >>> who = ["a", "a", "b", "b"]
        >>> seeded = np.random.default_rng(0)
        >>> speaker_interval(lambda rows: right[rows].mean(), who, generator=seeded)
        Interval(low=0.0, high=1.0)
    """
    who = np.asarray(speakers)
    if who.ndim != 1:
        raise ShapeError("speakers", who.shape, "(N,): one entry per row")
    if resamples < 1:
        raise SettingError("resamples", resamples, "a whole number >= 1")
    if not 0 < level < 1:
        raise SettingError("level", level, "a number between 0 and 1")
    names = np.unique(who)
    if names.size < 2:
        raise SettingError("the number of speakers", names.size, "at least 2 to draw from")
    rows_of = [np.flatnonzero(who == name) for name in names]
    draws = generator.integers(0, names.size, (resamples, names.size))
    values = np.array([statistic(np.concatenate([rows_of[i] for i in draw])) for draw in draws])
    values = values[~np.isnan(values)]
    if values.size == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
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
