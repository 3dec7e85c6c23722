"""Layers one after the other, max pooling before the ReLU that stands in front of it.

The two commute: the largest element of a window is the same before and after negative ones become
zero, and so is the place its gradient goes to. A ReLU after the pooling touches a quarter of the
elements. Outputs and gradients keep every bit (tested).
"""

from __future__ import annotations

from torch import Tensor, nn


class Layers(nn.Sequential):
    """`nn.Sequential` with the same layers, names and outputs, in less time."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the last layer returns for input (B, ...)."""
        waiting: nn.Module | None = None
        for layer in self:
            if waiting is not None and not isinstance(layer, nn.MaxPool2d):
                x, waiting = waiting(x), None
            if isinstance(layer, nn.ReLU):
                waiting = layer
                continue
            x = layer(x)
        return x if waiting is None else waiting(x)
