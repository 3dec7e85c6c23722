"""A recogniser that stands in for unknown targets while a purifier is trained."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from servax.models import TAPS, VGG16, Layers, feature_extractor, frozen

SURROGATE_TAPS = ("pool1", "pool2", "conv3_3", "pool4")
"""Where a VGG-16 is read, from texture to what the decision is made of."""


class Surrogate(nn.Module):
    """A frozen recogniser, read at its logits and, where it has taps, at its features.

    Args:
        network: From (B, 1, M, F) to logits (B, C). A VGG-16 is read at `SURROGATE_TAPS`; others
            have no taps, and only their logits count.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = frozen(network)
        # Layers from tap to tap, in a plain list: they are the network's own, registered there.
        self.parts: list[nn.Sequential] = []
        if isinstance(self.network, VGG16):
            layers = dict(feature_extractor(self.network, TAPS[-1]).named_children())
            names = list(layers)
            ends = [names.index(tap.replace("conv", "relu")) + 1 for tap in SURROGATE_TAPS]
            cuts = [0, *ends, len(names)]
            parts = list(layers.values())
            self.parts = [Layers(*parts[a:b]) for a, b in pairwise(cuts)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs (B, 1, M, F)."""
        logits: Tensor = self.network(x)
        return logits

    def read(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, C) and the features at each tap, in one pass."""
        if not self.parts:
            return self(x), []
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        pooled = torch.amax(features.pop(), dim=(2, 3))
        return self.network.head(pooled), features  # type: ignore[operator]
