"""How well scores tell attacked inputs from clean ones: the receiver operating characteristic.

A detector flags an input whose score reaches a threshold. Each threshold has a share of clean
inputs that are flagged (false positives) and of attacked ones that are (true positives); the area
under that curve is the probability that an attacked input scores above a clean one, ties counting
one half (Fawcett 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servax.errors import SettingError, ShapeError


@dataclass(frozen=True, kw_only=True)
class Roc:
    """The curve, from the threshold that flags nothing to the one that flags everything."""

    false_positive_rate: NDArray[np.float64]
    """Share of clean inputs with a score of at least the threshold, (K + 1,), rising."""
    true_positive_rate: NDArray[np.float64]
    """Share of attacked inputs with a score of at least the threshold, (K + 1,), rising."""
    thresholds: NDArray[np.float64]
    """Infinity, then each of the K different scores, falling, (K + 1,)."""
    area: float
    """Area under the curve, in [0, 1]; .5 is chance."""

    def detected_at(self, false_positive_rate: float) -> float:
        """Return the largest share of attacked inputs flagged at no more false positives than this.

        Raises:
            SettingError: The rate is outside [0, 1].
        """
        if not 0 <= false_positive_rate <= 1:
            raise SettingError("false_positive_rate", false_positive_rate, "a share in [0, 1]")
        allowed = self.false_positive_rate <= false_positive_rate + 1e-12
        return float(self.true_positive_rate[allowed].max())


def roc(clean_scores: ArrayLike, attacked_scores: ArrayLike) -> Roc:
    """Return the curve of scores that are higher where an attack is more likely.

    Args:
        clean_scores: (N,) scores of clean inputs.
        attacked_scores: (M,) scores of attacked inputs.

    Raises:
        ShapeError: Scores are not one-dimensional, or there are none.
        SettingError: A score is not finite.
    """
    clean = _scores("clean_scores", clean_scores)
    attacked = _scores("attacked_scores", attacked_scores)
    values = np.unique(np.concatenate([clean, attacked]))[::-1]
    false, true = (
        np.concatenate([[0.0], 1.0 - np.searchsorted(np.sort(part), values) / part.size])
        for part in (clean, attacked)
    )
    return Roc(
        false_positive_rate=false,
        true_positive_rate=true,
        thresholds=np.concatenate([[np.inf], values]),
        area=float(np.sum(np.diff(false) * (true[1:] + true[:-1])) / 2),
    )


def _scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ShapeError(name, scores.shape, "(N,): one score per input, N >= 1")
    if not np.isfinite(scores).all():
        raise SettingError(name, "not finite", "scores without NaN or infinity")
    return scores
