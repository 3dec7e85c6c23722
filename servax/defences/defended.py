"""Models with a defence: a defended one is a model; a detector tells attacked inputs.

`Bpda` is what an attacker who knows the defence puts in its place: the backward pass differentiable
approximation of Athalye et al. 2018, "Obfuscated gradients give a false sense of security" (section
4.1, with the identity), for defences without a useful gradient. All are modules, so every attack
works on them.

A purifier leaves clean speech alone and moves attacked speech, so how far it moves an input, or the
classifier's probabilities for it, is a score of suspicion: MagNet's reconstruction error (Meng &
Chen 2017) and feature squeezing's distance between predictions (Xu et al. 2018), with a purifier in
place of an autoencoder or a squeezer. An attacker who knows the detector lowers its score together
with the classifier's: gradients pass, so that this can be tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import kl_div

from servax.attacks import logits_of
from servax.errors import SettingError, ShapeError
from servax.kinds import Choice, typed
from servax.perturbation import straight_through

Score = Literal["residual", "l1", "kl"]


class Defended(nn.Module):
    """Maps inputs (B, 1, M, F) to the logits (B, C) of `model` behind `defence`.

    Attacking it with gradients is the adaptive attack; attacking `model` alone and scoring here is
    the oblivious one.
    """

    @typed
    def __init__(self, model: nn.Module, defence: nn.Module) -> None:
        super().__init__()
        self.defence = defence
        self.model = model

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C); exact gradients pass through the defence."""
        # Copies, since both may write into what they are given.
        logits: Tensor = self.model(self.defence(x.clone()).clone())
        return logits


class StraightThrough(nn.Module):
    """Maps inputs (B, ...) to what `step` makes of them; backward it is the identity.

    Args:
        step: What has no gradient, from a shape to the same shape; it may leave torch.
        what: How refusals call it.
    """

    knowledge = "bpda"
    """What an attack through it knows."""

    def __init__(self, step: Callable[[Tensor], Tensor], *, what: str = "the step") -> None:
        super().__init__()
        self.step = step
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        """Return what the step makes of inputs (B, ...).

        Raises:
            ShapeError: The step changes the shape: the identity cannot stand for it.
        """
        with torch.no_grad():
            stepped = self.step(x.detach().clone())
        if stepped.shape != x.shape:
            raise ShapeError(
                f"{self.what}'s output",
                stepped.shape,
                f"that of its input, {tuple(x.shape)}: BPDA takes {self.what} for the identity",
            )
        return straight_through(x, stepped)


class Bpda(Defended):
    """Maps inputs (B, ...) to the logits (B, C) of `model` behind a `defence` without gradients.

    Forward it is exactly ``model(defence(x))``; backward the defence is taken for the identity.

    Raises:
        ShapeError: In `forward`: the defence changes the shape.
    """

    knowledge = "bpda"
    """What an attack through it knows."""

    @typed
    def __init__(self, model: nn.Module, defence: nn.Module) -> None:
        super().__init__(model, StraightThrough(defence, what="the defence"))


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
        Choice(("residual", "l1", "kl")).check("score", score)
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
