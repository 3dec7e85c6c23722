"""A random system asked again and again: right once, right in the mean, right in every answer.

One answer of a random defence says little: an attacker who may try n times needs one wrong answer
of n, and a service that averages n draws gives another one than a single draw. So what an attack
made is put to the system n times. Of several attacks an utterance meets the worst.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.models import classes_of, evaluating

TIMES = 20
"""How often an audit asks."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a random system answers to N inputs, each put to it several times."""

    right: Tensor
    """Share of the answers to each that are right, (N,) float64."""
    in_mean: Tensor
    """Whether the mean of the probabilities over all answers is, (N,) bool."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the answers of all parts, one behind the other."""
        right, in_mean = ([getattr(part, name) for part in parts] for name in ("right", "in_mean"))
        return cls(torch.cat(right), torch.cat(in_mean))

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return what `to_json` told."""
        return cls(torch.tensor(told["right"], dtype=torch.float64), torch.tensor(told["in_mean"]))

    @classmethod
    def worst(cls, each: Collection[Self]) -> Self:
        """Return the worst for each utterance: of all shares the least, and all means right."""
        right, in_mean = ([getattr(one, name) for one in each] for name in ("right", "in_mean"))
        return cls(torch.stack(right).amin(dim=0), torch.stack(in_mean).all(dim=0))

    def to_json(self) -> dict[str, Any]:
        """Return the answers as a JSON object."""
        return {"right": self.right.tolist(), "in_mean": self.in_mean.tolist()}

    @property
    def shares(self) -> dict[str, float]:
        """The mean share of right answers; the shares of utterances right in the mean, and in all.

        As `right_once`, `right_in_mean`, `right_in_all`.
        """
        return {
            "right_once": float(self.right.mean()),
            "right_in_mean": float(self.in_mean.double().mean()),
            "right_in_all": float((self.right == 1).double().mean()),
        }


@torch.no_grad()
def asked(model: nn.Module, x: Tensor, y: Tensor, times: int) -> Answers:
    """Return what a random classifier answers to inputs (B, ...) of classes y (B,)."""
    with evaluating(model):
        logits = torch.stack([logits_of(model, x) for _ in range(times)])  # (times, B, K)
    right = torch.stack([classes_of(each) == y for each in logits]).double().mean(dim=0)
    mean = logits.double().softmax(dim=2).mean(dim=0)
    return Answers(right.cpu(), (mean.argmax(dim=1) == y).cpu())
