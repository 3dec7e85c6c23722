"""Tells attacked inputs by what purification changes about them.

A purifier leaves clean speech alone and moves attacked speech, so how far it moves an input, or the
classifier's probabilities for it, is a score of suspicion: MagNet's reconstruction error (Meng &
Chen 2017) and feature squeezing's distance between predictions (Xu et al. 2018), with a purifier in
place of an autoencoder or a squeezer. An attacker who knows the detector lowers its score together
with the classifier's: gradients pass, so that this can be tried.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import kl_div

from servax.attacks.problem import logits_of
from servax.errors import SettingError, ShapeError
from servax.kinds import typed

SCORES = ("residual", "l1", "kl")
Score = Literal["residual", "l1", "kl"]


class Detector(nn.Module):
    """Maps inputs (B, ...) to scores (B,), higher where an attack is more likely.

    Args:
        purifier: From (B, ...) to the same shape.
        model: From (B, ...) to logits (B, C); the scores `l1` and `kl` need it.
        score: `residual` is the mean of abs(x - P(x)); `l1` and `kl` are the distance sum |p - q|
            and the divergence sum p log(p / q) between the probabilities before (p) and after (q)
            purification.
        threshold: Scores above it are flagged; None until `calibrate` has set it.
    """

    knowledge = "adaptive"
    """Exact gradients, as far as those of the purifier and the model are."""

    @typed
    def __init__(
        self,
        purifier: nn.Module,
        model: nn.Module | None = None,
        *,
        score: Score = "residual",
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise SettingError.choice("score", score, SCORES)
        if score != "residual" and model is None:
            raise SettingError("model", None, f"a classifier, which the score {score!r} asks")
        if threshold is not None and not math.isfinite(threshold):
            raise SettingError("threshold", threshold, "a finite number, or None")
        self.purifier = purifier
        self.model = model
        self.score = score
        self.threshold = threshold

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (B,) of inputs (B, ...)."""
        purified = self.purifier(x.clone())
        if self.model is None or self.score == "residual":
            residual: Tensor = (x - purified).abs().flatten(1).mean(1)
            return residual
        before, after = (logits_of(self.model, z).log_softmax(1) for z in (x, purified))
        if self.score == "l1":
            distance: Tensor = (before.exp() - after.exp()).abs().sum(1)
            return distance
        divergence: Tensor = kl_div(after, before, reduction="none", log_target=True).sum(1)
        return divergence

    def calibrate(self, clean_scores: ArrayLike, false_positive_rate: float = 0.05) -> float:
        """Set, and return, the threshold that flags at most this share of clean inputs.

        Args:
            clean_scores: (N,) scores of clean inputs that no later figure is computed on.
            false_positive_rate: In [0, 1).
        """
        self.threshold = threshold_at(clean_scores, false_positive_rate)
        return self.threshold

    @torch.no_grad()
    @typed
    def flags(self, x: Tensor) -> Tensor:
        """Return whether each of the inputs (B, ...) looks attacked, (B,) bool.

        Raises:
            SettingError: There is no threshold yet.
        """
        if self.threshold is None:
            raise SettingError(
                "threshold", None, "a number: give one, or call calibrate with clean scores"
            )
        flagged: Tensor = self(x) > self.threshold
        return flagged


@typed
def threshold_at(clean_scores: ArrayLike, false_positive_rate: float) -> float:
    """Return the lowest clean score above which at most this share of clean scores lies.

    Args:
        clean_scores: (N,) scores of clean inputs.
        false_positive_rate: In [0, 1).

    Raises:
        ShapeError: The scores are not (N,) with N >= 1.
        SettingError: A score is not finite, or the rate is outside [0, 1).
    """
    try:
        scores = np.asarray(clean_scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise SettingError("clean_scores", clean_scores, "numbers (N,)") from None
    if scores.ndim != 1 or scores.size == 0:
        raise ShapeError("clean_scores", scores.shape, "(N,): one score per input, N >= 1")
    if not np.isfinite(scores).all():
        raise SettingError("clean_scores", "not finite", "scores without NaN or infinity")
    if not 0 <= false_positive_rate < 1:
        raise SettingError("false_positive_rate", false_positive_rate, "a share in [0, 1)")
    # .29 * 100 is 28.999…: a rounding error must not cost a clip.
    allowed = math.floor(false_positive_rate * scores.size + 1e-9)
    return float(np.sort(scores)[scores.size - 1 - allowed])
