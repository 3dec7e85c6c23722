"""A binary readout of a model's features, for the planted test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.errors import ShapeError

Matrix = NDArray[np.float64]


class Features(nn.Module):
    """Maps inputs (B, ...) to the features (B, D) that the model's last layer reads.

    The last layer is the linear one whose output is the model's, or whose outputs are, one after
    the other, where the model asks it for a part of the batch at a time. The features of a model
    without such a layer are its logits, also where gradients reach these by another way alone.

    Args:
        model: The classifier.
        x: Inputs to find the layer with, (B, ...); a model may treat one otherwise than two.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.layer = _last_layer(model, x)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, D).

        Raises:
            ShapeError: The layer was not asked once for each input.
        """
        if self.layer is None:
            return logits_of(self.model, x)
        caught: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            logits_of(self.model, x)
        finally:
            hook.remove()
        features = torch.cat(caught)
        if len(features) != len(x):
            raise ShapeError("the last layer's inputs", features.shape, f"({len(x)}, D)")
        return features


def _last_layer(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """Return the linear layer whose outputs are the model's, or None."""
    calls: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}

    def keep(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear) and given:
            calls.setdefault(layer, []).append((given[0], output.detach().clone()))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            logits = logits_of(model, leaf)
    finally:
        for hook in hooks:
            hook.remove()
    same = [
        layer
        for layer, made in calls.items()
        if all(given.ndim == 2 for given, _ in made)
        and torch.equal(torch.cat([output for _, output in made]), logits.detach())
        and all(_reached(given, leaf) for given, _ in made) >= _reached(logits, leaf)
    ]
    return same[-1] if same else None


def _reached(value: Tensor, leaf: Tensor) -> bool:
    """Return whether gradients of a value reach the leaf."""
    if not value.requires_grad:
        return False
    with torch.enable_grad():
        found = torch.autograd.grad(value.sum(), leaf, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in found)


Plane = tuple[Matrix, float]
"""Weight (D,), towards the planted points, and bias: ``features · weight + bias`` is 0 on it."""


class Readout(nn.Module):
    """Maps inputs (B, ...) to two logits (B, 2): near the clean input, and planted.

    Args:
        features: From inputs to features (B, D).
        plane: Where the second class begins.
        like: Says type and device.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: nn.Module, plane: Plane, like: Tensor) -> None:
        super().__init__()
        self.features = features
        for name, value in zip(("weight", "bias"), plane, strict=True):
            self.register_buffer(name, torch.as_tensor(value).to(like))
        self.tries = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2) and count the inputs that were tried."""
        self.tries += len(x)
        half = 0.5 * (self.features(x).to(self.weight) @ self.weight + self.bias)  # (B,)
        return torch.stack([-half, half], dim=1)


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
    return weight, float(-(centre @ weight) - plane * spread / largest)


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
