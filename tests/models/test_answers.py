"""NaN and infinity are no class, wherever logits become one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from servax.attacks import NES, PGD, Restarts, Square
from servax.defences import certify
from servax.errors import ServaxError
from servax.evaluation.engine import predict
from servax.models import classes_of


def test_the_largest_finite_logit_is_the_class() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(classes_of(logits), np.argmax(logits.numpy(), axis=1))
    ruled_out = torch.tensor([[-math.inf, -3.0, -math.inf]])
    assert classes_of(ruled_out).tolist() == [1]


@pytest.mark.parametrize(
    "row", [[math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_answer_without_one_is_refused_by_name(row: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 0.0], row], dtype=dtype)
    with pytest.raises(ServaxError, match=r"output for utterance b\.wav is NaN or infinite \(1 of"):
        classes_of(logits, ["a.wav", "b.wav"])
    with pytest.raises(ServaxError, match="output for input 1 is NaN or infinite"):
        classes_of(logits)


class NanWhere(nn.Module):
    """Says NaN to inputs whose first element is above a half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([x.sum(1), -x.sum(1)], dim=1)
        return torch.where(x[:, :1] > 0.5, math.nan, logits)


def test_the_clean_stage_of_an_audit_names_the_utterance() -> None:
    x = torch.tensor([[0.1, 0.2], [0.2, 0.2], [0.3, 0.2], [0.9, 0.2]])
    assert predict(NanWhere(), x[:3], batch_size=2).tolist() == [0, 0, 0]
    with pytest.raises(ServaxError, match="output for utterance d is NaN"):
        predict(NanWhere(), x, batch_size=3, names=["a", "b", "c", "d"])


@pytest.mark.parametrize(
    "attack",
    [
        PGD(early_stop=True, random_start=True),
        Square(queries=5),
        NES(queries=30, samples=2),
        Restarts(PGD(early_stop=True), 1),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_an_attack_does_not_take_nan_for_fooled(attack) -> None:
    x = torch.tensor([[0.1, 0.2], [0.9, 0.2]])
    with pytest.raises(ServaxError, match="NaN or infinite"):
        attack(NanWhere(), x, torch.tensor([1, 1]), generator=torch.Generator().manual_seed(0))


def test_a_certificate_is_not_given_to_nan() -> None:
    x = torch.tensor([[0.9, 0.2]])
    with pytest.raises(ServaxError, match="NaN or infinite"):
        certify(
            NanWhere(),
            x,
            standard_deviation=0.01,
            draws_to_select=4,
            draws_to_estimate=8,
            generator=torch.Generator().manual_seed(0),
        )
