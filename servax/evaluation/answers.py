"""A random system asked again and again: right once, right in the mean, right in every answer.

One answer of a random defence says little: an attacker who may try n times needs one wrong answer
of n, and a service that averages n draws gives another one than a single draw. So what an attack
made is put to the system n times. Of several attacks an utterance meets the worst.

Answers are a table with a row per input: `right`, the share of its answers that are right, and
`in_mean`, whether the mean of the probabilities over all answers is.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.models import classes_of, evaluating

TIMES = 20
"""How often an audit asks."""


@torch.no_grad()
def asked(model: nn.Module, x: Tensor, y: Tensor, times: int) -> pd.DataFrame:
    """Return what a random classifier answers to inputs (B, ...) of classes y (B,)."""
    with evaluating(model):
        logits = torch.stack([logits_of(model, x) for _ in range(times)])  # (times, B, K)
    right = torch.stack([classes_of(each) == y for each in logits]).double().mean(dim=0)
    mean = logits.double().softmax(dim=2).mean(dim=0)
    in_mean = mean.argmax(dim=1) == y
    return pd.DataFrame({"right": right.cpu().numpy(), "in_mean": in_mean.cpu().numpy()})


def worst(each: Collection[pd.DataFrame]) -> pd.DataFrame:
    """Return the worst for each utterance: of all shares the least, and all means right."""
    return pd.concat(each).groupby(level=0).min()


def shares(answers: pd.DataFrame) -> dict[str, float]:
    """Return the mean share of right answers, and of utterances right in the mean, and in all."""
    right, in_mean = (torch.tensor(answers[name].to_numpy()).double() for name in answers)
    return {
        "right_once": float(right.mean()),
        "right_in_mean": float(in_mean.mean()),
        "right_in_all": float((right == 1).double().mean()),
    }
