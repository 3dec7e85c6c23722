"""The bootstrap over speakers as it is told: rows are drawn anew and scored each time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servax.evaluation.statistics import Interval


def speaker_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    speakers: ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return the percentile interval of a statistic of row numbers over drawn speakers."""
    who = np.asarray(speakers)
    names = np.unique(who)
    rows_of = [np.flatnonzero(who == name) for name in names]
    draws = generator.integers(0, names.size, (resamples, names.size))
    values = np.array([statistic(np.concatenate([rows_of[i] for i in draw])) for draw in draws])
    low, high = np.quantile(values[~np.isnan(values)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
