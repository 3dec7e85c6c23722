"""The losses of the purifier and of the discriminator (equations 4 to 7).

Each is a mean over elements, so that the weights keep their meaning when sizes change; the paper
prints norms. The game is played on logits in its non-saturating form (Goodfellow et al. 2014).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from servax.errors import SettingError
from servax.kinds import check_types


@dataclass(frozen=True)
class LossWeights:
    """α, β and γ of eq. 7; the paper sets all three to 1."""

    adversarial: float = 1.0
    """α, of L_adv; 0 trains without a discriminator."""
    pixel: float = 1.0
    """β, of L_pix."""
    feature: float = 1.0
    """γ, of L_feat."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("adversarial", "pixel", "feature"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingError(name, getattr(self, name), "a finite number of at least 0")
        if self.pixel == self.feature == 0:
            raise SettingError(
                "pixel, feature", (0, 0), "at least one above 0, or nothing ties output to input"
            )


def pixel_loss(x: Tensor, purified: Tensor) -> Tensor:
    """Return L_pix (eq. 4), a scalar: the root mean square error of each utterance, averaged."""
    error = (x - purified).pow(2).flatten(1).mean(1)
    # The root has no gradient at 0, which an untrained residual purifier reaches on clean input.
    return torch.sqrt(error + 1e-12).mean()


def feature_loss(features: Tensor, purified_features: Tensor) -> Tensor:
    """Return L_feat (eq. 5), a scalar: the mean absolute difference of features."""
    return (features - purified_features).abs().mean()


def generator_loss(logits_purified: Tensor) -> Tensor:
    """Return P's part of L_adv (eq. 6) from D's logits (B,): -log D(P(x*))."""
    return softplus(-logits_purified).mean()


def discriminator_loss(logits_original: Tensor, logits_purified: Tensor) -> Tensor:
    """Return D's part of eq. 6 from its logits (B,): -log D(x) - log(1 - D(P(x*)))."""
    return softplus(-logits_original).mean() + softplus(logits_purified).mean()


def combined_gradient(
    gradient: Tensor,
    adversarial: Tensor,
    *,
    limit: float | None,
    length: Callable[[Tensor], Tensor] = Tensor.norm,
) -> Tensor:
    """Return the gradient of eq. 7 at P's output from that of its two parts.

    L_pix and L_feat are means over some 24 000 elements, so their gradients are small; that of
    L_adv is as steep as D happens to be and drowns them. Where it is longer than a share of theirs,
    it is cut to it (the adaptive weight of Esser et al. 2021, with the published weight as bound).

    Args:
        gradient: Of β L_pix + γ L_feat with respect to P's output, (B, 1, M, F).
        adversarial: Of α L_adv, same shape.
        limit: The share, below 1 so that errors still shrink; none is the letter of eq. 7.
        length: Measures a gradient (B, 1, M, F); processes that share a batch measure all of it.
    """
    if limit is None:
        return gradient + adversarial
    steepness = length(adversarial).clamp(min=torch.finfo(adversarial.dtype).tiny)
    share: Tensor = (limit * length(gradient) / steepness).clamp(max=1.0)
    return gradient + share * adversarial
