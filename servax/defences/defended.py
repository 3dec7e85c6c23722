"""A defended model is a model: a defence in front of a classifier."""

from __future__ import annotations

from torch import Tensor, nn

from servax.kinds import typed


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
