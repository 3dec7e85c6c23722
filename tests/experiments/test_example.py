from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.corpora import COLUMNS, Corpus
from servax.evaluation.suites import AttackGrid
from servax.experiments.logmel_fold import choose_example
from servax.features import Dataset, Features, Scale, ScaleSettings

GRID = AttackGrid(epsilons=(0.01,), step=0.01, radius=0.02, steps=3, adaptive_steps=3)
NAMES = ("u0", "u1", "u2")


class Target(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def dataset() -> Dataset:
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(3))
    table["utterance"], table["label"] = NAMES, ["sad", "angry", "sad"]
    table["start"], table["end"] = 0.0, math.nan
    corpus = Corpus("made", Path(), "native", ("angry", "sad"), table)
    decibels = np.random.default_rng(0).uniform(-70, -10, (3, 3, 4)).astype(np.float32)
    return Dataset(corpus, Features(decibels, NAMES), Scale(ScaleSettings(top_db=0.0)))


def frame(clean: list[str], attacked: list[str], purified: list[str]) -> pd.DataFrame:
    rows = []
    for name, c, a, p in zip(NAMES, clean, attacked, purified, strict=True):
        rows += [
            (name, "undefended", "none", 0.0, "none", c),
            (name, "undefended", "pgd", 3.0, "oblivious", a),
            (name, "undefended", "pgd", 3.0, "adaptive", a),
            (name, "undefended", "pgd", 2.0, "oblivious", "-"),
            (name, "ssad", "pgd", 3.0, "oblivious", p),
            (name, "ssad", "pgd", 3.0, "adaptive", "-"),
        ]
    columns = ["utterance", "defence", "attack", "strength", "knowledge", "prediction"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("clean", "attacked", "purified", "chosen"),
    [
        # Read rightly, turned, put right: u2 alone.
        (["angry", "angry", "sad"], ["angry", "sad", "angry"], ["sad", "sad", "sad"], "u2"),
        # None is put right: the first that is read rightly.
        (["angry", "angry", "sad"], ["angry", "sad", "angry"], ["sad", "sad", "angry"], "u1"),
        # None is read rightly: the first.
        (["angry", "sad", "angry"], ["angry"] * 3, ["sad"] * 3, "u0"),
    ],
)
def test_the_choice(
    clean: list[str], attacked: list[str], purified: list[str], chosen: str
) -> None:
    torch.manual_seed(0)
    target, test = Target(), dataset()
    example = choose_example(
        frame(clean, attacked, purified),
        target,
        nn.AvgPool2d(3, stride=1, padding=1),
        test,
        GRID,
        defence="ssad",
        hop_seconds=0.016,
    )
    row = NAMES.index(chosen)
    label = ("sad", "angry", "sad")[row]
    assert example.title == (
        f"{chosen}: {label}, read as {clean[row]}; after PGD-3 as {attacked[row]}; purified (ssad) "
        f"as {purified[row]}"
    )
    batch = test.batch(np.array([row]))
    moved = PGD(step=0.01, epsilon=0.02, steps=3)(target, batch.x, batch.y)
    decibels = (moved[0, 0].numpy() - 1) * 80
    np.testing.assert_allclose(example.attacked, decibels, atol=1e-4)
    np.testing.assert_allclose(example.original, (batch.x[0, 0].numpy() - 1) * 80, atol=1e-4)
    cleaned = nn.AvgPool2d(3, stride=1, padding=1)(moved)[0, 0].numpy()
    np.testing.assert_allclose(example.purified, (cleaned - 1) * 80, atol=1e-4)
    assert example.hop_seconds == 0.016
