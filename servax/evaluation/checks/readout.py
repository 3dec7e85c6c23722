"""A binary readout of a model's features, for the planted test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn

from servax.attacks.problem import logits_of

Matrix = NDArray[np.float64]


class Features(nn.Module):
    """Maps inputs (B, ...) to the features (B, D) that the model's last layer reads.

    The last layer is the linear one whose output is the model's; the features of a model without
    such a layer are its logits.

    Args:
        model: The classifier.
        x: Inputs to find the layer with, (B, ...).
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.layer = _last_layer(model, x)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D)."""
        if self.layer is None:
            return logits_of(self.model, x)
        caught: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            self.model(x)
        finally:
            hook.remove()
        return caught[-1]


def _last_layer(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """Return the linear layer whose output is the model's, or None."""
    outputs: dict[nn.Linear, Tensor] = {}

    def keep(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear) and given[0].ndim == 2:
            outputs[layer] = output

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            logits = logits_of(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    same = [layer for layer, output in outputs.items() if torch.equal(output, logits)]
    return same[-1] if same else None


class Readout(nn.Module):
    """Maps inputs (B, ...) to two logits (B, 2): near the clean input, and planted.

    Args:
        features: From inputs to features (B, D).
        plane: Where the second class begins.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: nn.Module, plane: Plane, like: Tensor) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("weight", torch.as_tensor(plane.weight).to(like))
        self.register_buffer("bias", torch.as_tensor(plane.bias).to(like))
        self.tries = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2) and count the inputs that were tried."""
        self.tries += len(x)
        half = 0.5 * (self.features(x) @ self.weight + self.bias)  # (B,)
        return torch.stack([-half, half], dim=1)


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane ``features · weight + bias = 0``."""

    weight: Matrix
    """(D,), towards the planted points."""
    bias: float
    """Moves the plane."""


def separate(inner: Matrix, planted: Matrix, *, closeness: float, spread: float) -> Plane | None:
    """Return a plane between inner (n, D) and planted points (m, D), or None where there is none.

    The direction is that of the widest margin: from the nearest point of one convex hull to that of
    the other, found by non-negative least squares. The paper fits an unregularised logistic
    regression, which tends to the same direction (Soudry et al. 2018).

    Args:
        inner: Features of the points near the clean input.
        planted: Features of the planted points.
        closeness: Where between the two the plane stands: 0 at the last inner point, 1 at the
            nearest planted one.
        spread: The largest absolute score becomes this.
    """
    centre = inner.mean(axis=0)
    inside, outside = inner - centre, planted - centre
    scale = float(np.abs(np.concatenate([inside, outside])).max())
    # Features are float32 as a rule: what is smaller than their rounding is no direction.
    if not scale > 1e-5 * max(float(np.abs(inner).max()), 1e-30):
        return None
    direction = _widest(inside / scale, outside / scale)
    scores, planted_scores = inside @ direction, outside @ direction
    low, high = float(scores.max()), float(planted_scores.min())
    if not high - low > 1e-4 * scale * float(np.linalg.norm(direction)):
        return None
    plane = low + closeness * (high - low)
    largest = max(float(np.abs(scores - plane).max()), float(np.abs(planted_scores - plane).max()))
    weight = direction * (spread / largest)
    return Plane(weight, float(-(centre @ weight) - plane * spread / largest))


def _widest(inner: Matrix, planted: Matrix) -> Matrix:
    """Return the vector (D,) between the nearest points of two convex hulls."""
    n, m = len(inner), len(planted)
    # All hulls lie in the span of the points: no more coordinates than points are needed.
    basis = np.linalg.svd(np.concatenate([inner, planted]), full_matrices=False)[2]  # (r, D)
    here, there = inner @ basis.T, planted @ basis.T
    weights = np.concatenate([here.T, -there.T], axis=1)  # (r, n + m)
    sums = np.zeros((2, n + m))
    sums[0, :n] = sums[1, n:] = 1e3  # both kinds of weights sum to one
    target = np.concatenate([np.zeros(len(weights)), [1e3, 1e3]])
    solution = nnls(np.concatenate([weights, sums]), target, maxiter=50 * (n + m))[0]
    between: Matrix = (solution[n:] @ there - solution[:n] @ here) @ basis
    return between
