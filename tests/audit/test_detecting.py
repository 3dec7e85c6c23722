"""Detection in an audit against scikit-learn, and which systems have a detector."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from servax.attacks import PGD
from servax.audit.checking import detections
from servax.audit.settings import Audit
from servax.defences import Defended
from servax.evaluation.systems import System
from servax.evaluation.threats import Knowledge, Threat

COUNT, CLASSES, MOVED = 30, 3, 20


class Squash(nn.Module):
    """Pulls inputs half way to the middle."""

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            raise ValueError("an empty batch")
        return 0.5 * x + 0.25


def threat(name: str, knowledge: Knowledge) -> Threat:
    attack = PGD(step=0.1, epsilon=0.3, steps=1)
    return Threat(name=name, knowledge=knowledge, attack=attack, kept=True)


def made_up() -> tuple[Audit, System, Tensor, np.ndarray[Any, Any]]:
    draws = torch.Generator().manual_seed(3)
    x = torch.rand(COUNT, 1, 4, 5, generator=draws)
    weights = torch.randn(20, CLASSES, generator=draws)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, CLASSES, bias=False))
    model[1].weight = nn.Parameter(weights.T.clone())
    audit = SimpleNamespace(
        settings=SimpleNamespace(batch_size=8, seed=0),
        dataset=SimpleNamespace(x=x),
        subject=SimpleNamespace(model=model),
    )
    system = System(name="squash", model=Defended(model, Squash()), front=Squash())
    return cast(Audit, audit), system, x, weights.numpy().astype(np.float64)


def scores(x: Tensor, weights: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    values = x.numpy().astype(np.float64).reshape(len(x), -1)
    probabilities = []
    for each in (values, 0.5 * values + 0.25):
        powers = np.exp(each @ weights)
        probabilities.append(powers / powers.sum(axis=1, keepdims=True))
    return {
        "residual": np.abs(0.5 * values - 0.25).mean(axis=1),
        "l1": np.abs(probabilities[0] - probabilities[1]).sum(axis=1),
    }


def test_area_and_rate_are_those_of_scikit_learn() -> None:
    audit, system, x, weights = made_up()
    inputs = x.clone()
    noise = 0.3 * torch.randn(x[:MOVED].shape, generator=torch.Generator().manual_seed(4))
    inputs[:MOVED] = (x[:MOVED] + noise).clamp(0, 1)
    ticks: list[None] = []
    found = detections(
        audit,
        system,
        [(threat("pgd", "adaptive"), inputs), (threat("pgd", "oblivious"), x.clone())],
        tick=lambda: ticks.append(None),
    )
    assert len(ticks) == 1 + 2
    clean, attacked = scores(x, weights), scores(inputs[:MOVED], weights)
    for row, score in zip(found[:2], ("residual", "l1"), strict=True):
        truth = np.repeat([0, 1], [COUNT, MOVED])
        values = np.concatenate([clean[score], attacked[score]])
        false, true, _ = roc_curve(truth, values, drop_intermediate=False)
        assert row == {
            "defence": "squash",
            "attack": "pgd",
            "knowledge": "adaptive",
            "score": score,
            "area": pytest.approx(roc_auc_score(truth, values)),
            "detected_at_5_percent": pytest.approx(true[false <= 0.05].max()),
            "utterances": MOVED,
        }
    assert 0.5 < found[0]["area"] < 1
    told = [(row["area"], row["detected_at_5_percent"], row["utterances"]) for row in found[2:]]
    assert told == [(None, None, 0)] * 2
