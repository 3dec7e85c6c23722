"""The bootstrap over speakers for a whole report: the same draws for every number.

The statistic of a draw needs only counts per speaker, so a thousand draws are one product of
matrices: the same intervals as `servax.evaluation.statistics.speaker_interval` with the same seed,
some hundred times faster. Since all numbers share the draws, the difference of two of them is
paired.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from servax.evaluation.statistics import Interval, no_interval

__all__ = ["LEVEL", "RESAMPLES", "SEED", "SpeakerDraws", "interval_of"]

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95


class SpeakerDraws:
    """Sets of speakers drawn with replacement, as many as there are, each with all of its rows.

    Args:
        speakers: (N,) speaker of each row.
        resamples: R, how many sets to draw.
        seed: The same seed gives the same draws for the same number of speakers.
    """

    def __init__(
        self, speakers: NDArray[np.str_], *, resamples: int = RESAMPLES, seed: int = SEED
    ) -> None:
        names, self._speaker = np.unique(speakers, return_inverse=True)
        self._count = names.size
        drawn = np.random.default_rng(seed).integers(0, names.size, (resamples, names.size))
        # (R, S): how often each speaker was drawn.
        self._times = np.stack([np.bincount(d, minlength=names.size) for d in drawn])

    @classmethod
    def of(cls, speakers: NDArray[np.str_]) -> SpeakerDraws | None:
        """Return the draws of a report, or None where there are too few speakers for intervals."""
        return None if no_interval(np.unique(speakers).size) else cls(speakers)

    def uars(self, labels: NDArray[np.intp], cells: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the (R,) mean UAR in percent of (K, N) predictions for (N,) labels, per draw."""
        classes = int(labels.max()) + 1
        place = self._speaker * classes + labels  # (N,)
        totals = self._per_speaker(place, np.ones(labels.size), classes)  # (R, C)
        held = totals > 0  # a class that no drawn speaker has does not count
        per_cell = []
        for cell in cells:
            hits = self._per_speaker(place, (cell == labels).astype(np.float64), classes)
            recalls = np.divide(hits, totals, out=np.zeros_like(hits), where=held)
            per_cell.append(recalls.sum(axis=1) / held.sum(axis=1))
        return np.asarray(100 * np.mean(per_cell, axis=0), dtype=np.float64)

    def counts(self, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the (R,) number of rows of each draw that are in `which` (N,)."""
        return self._per_speaker(self._speaker, which.astype(np.float64), 1)[:, 0]

    def _per_speaker(
        self, place: NDArray[np.intp], weights: NDArray[np.float64], width: int
    ) -> NDArray[np.float64]:
        """Return (R, width) sums of `weights` (N,) over the rows of each draw."""
        sums = np.bincount(place, weights=weights, minlength=self._count * width)
        return np.asarray(self._times @ sums.reshape(self._count, width), dtype=np.float64)


def interval_of(values: NDArray[np.float64], *, level: float = LEVEL) -> Interval:
    """Return the percentile interval of one value per draw; draws that are ``nan`` do not count."""
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
