"""R_no against torchattacks and against each utterance attacked apart; the rule on made curves."""

from __future__ import annotations

import importlib
import re
import warnings
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from servax.errors import ServaxError, SettingError
from servax.evaluation.calibration import risks, spread, summary
from servax.evaluation.settings import CalibrationGrid
from servax.features import Dataset
from servax.training import Compute, global_seed

CPU = Compute("cpu")
GRID = CalibrationGrid(step_sizes=(0.01, 0.03), radii=(0.02, 0.05), steps=5)


class Toy(nn.Module):
    """Compares four bands of Mel bins, with an error of its own that falls to small attacks."""

    def __init__(self) -> None:
        super().__init__()
        with global_seed(3, "toy"):
            self.bend = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        level = (x + 0.3 * torch.tanh(self.bend(x)).mean(dim=1, keepdim=True)).mean(dim=(1, 3))
        logits: Tensor = 12 * level.reshape(len(x), 4, -1).mean(dim=2)
        return logits


@pytest.fixture
def data(make_dataset) -> Dataset:  # type: ignore[no-untyped-def]
    """Return 14 utterances in which the band of the class is louder, by .5 to 6 dB or not."""
    full = make_dataset([i % 4 for i in range(14)])
    levels = full._logmel_db.copy()
    for row, label in enumerate(full.labels.tolist()):
        # Two utterances speak against their label: nothing can be taken from them.
        levels[row, label * 8 : (label + 1) * 8] -= 34.5 - (row - row // 7) / 2 if row % 7 else 40.0
    full._logmel_db = levels
    return full


@pytest.fixture(scope="module")
def torchattacks() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchattacks")


def test_agrees_with_torchattacks(torchattacks: ModuleType, data: Dataset) -> None:
    model = Toy().eval()
    frame = risks(model, data, GRID, batch_size=5, compute=CPU)
    assert len(frame) == 4 * 5
    (batch,) = data.batches(14)
    right = model(batch.x).argmax(dim=1) == batch.y
    assert 0 < int(right.sum()) < 14
    for row in frame.itertuples():
        attack = torchattacks.PGD(
            model, eps=row.radius, alpha=row.step, steps=row.k, random_start=False
        )
        wrong = model(attack(batch.x, batch.y)).argmax(dim=1) != batch.y
        assert row.right == int(right.sum())
        assert row.lost == int((wrong & right).sum())
        assert row.risk == row.lost / row.right
    # The comparison would prove little if all curves were alike.
    assert frame["risk"].nunique() > 3
    assert frame["risk"].between(0.05, 0.95).any()


def test_agrees_with_the_formula_one_utterance_at_a_time(data: Dataset) -> None:
    """Equation 11, x_k = clip(x_(k-1) + step sign(gradient)), in float64."""
    model, step, radius = Toy().eval().double(), 0.01, 0.05
    lost = np.zeros(5)
    count = 0
    for position in range(len(data)):
        batch = data.batch(np.array([position]))
        x, y = batch.x.double(), batch.y
        if int(model(x).argmax()) != int(y):
            continue
        count += 1
        moved = x.clone()
        for k in range(5):
            moved.requires_grad_(True)
            loss = -torch.log_softmax(model(moved), dim=1)[0, int(y)]
            (gradient,) = torch.autograd.grad(loss, moved)
            moved = (moved + step * gradient.sign()).detach()
            moved = torch.minimum(torch.maximum(moved, x - radius), x + radius).clamp(0, 1)
            lost[k] += int(model(moved).argmax()) != int(y)
    grid = CalibrationGrid(step_sizes=(step,), radii=(radius,), steps=5)
    frame = risks(Toy(), data, grid, compute=CPU)
    assert frame["right"].tolist() == [count] * 5
    assert frame["lost"].tolist() == lost.tolist()


def test_progress_counts_gradients(data: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    frame = risks(Toy(), data, GRID, batch_size=5, compute=CPU, progress=lambda *a: seen.append(a))
    batches = -(-int(frame["right"].iloc[0]) // 5)
    total = 4 * 5 * batches
    assert seen == [(i, total) for i in range(1, total + 1)]


def test_a_model_that_is_always_wrong_is_refused(data: Dataset) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 4).index_fill(1, torch.tensor([3]), 1.0)

    data.labels = torch.zeros_like(data.labels)
    with pytest.raises(ServaxError, match="reads none of the 14 utterances rightly, so no attack"):
        risks(Wrong(), data, GRID, compute=CPU)


def curve(step: float, radius: float, values: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({"k": range(1, len(values) + 1), "risk": values})
    return frame.assign(step=step, radius=radius, right=100)


def test_the_summary_by_hand() -> None:
    slow = [0.1 * k for k in range(1, 10)] + [0.985, 0.99, 1.0, 0.995]
    table = summary(pd.concat([curve(0.003, 0.02, slow), curve(0.01, 0.02, [1.0] * 13)]))
    first, second = (row for _, row in table.iterrows())
    mean = (4.5 + 0.985 + 0.99 + 1.0 + 0.995) / 13
    assert first["mean_risk"] == pytest.approx(mean)
    assert first["distance"] == pytest.approx(0.89 - mean)
    assert (first["risk_3"], first["risk_9"]) == pytest.approx((0.3, 0.9))
    assert first["risk_13"] == 0.995
    assert first["flat_k"] == 10  # .985 is one point from .995, .9 is not
    assert first["width_steps"] == pytest.approx(20 / 3)
    assert (second["flat_k"], second["distance"]) == (1, pytest.approx(0.11))
    assert "risk_15" not in table.columns
    # The second lies nearer, but its ball is 2 steps wide.
    assert table["nearest"].tolist() == [False, True]
    assert table["chosen"].tolist() == [True, False]


def test_ties_are_decided_by_where_the_curve_flattens() -> None:
    early = curve(0.002, 0.016, [0.81, *[0.9] * 9])  # flat at 2
    late = curve(0.001, 0.009, [0.885] * 8 + [0.92, 0.92])  # flat at 9, its mean as near in points
    assert summary(pd.concat([early, late]))["chosen"].tolist() == [False, True]
    unfit = pd.concat([curve(0.01, 0.01, [0.5] * 3), curve(0.01, 0.02, [0.8] * 3)])
    assert summary(unfit)["chosen"].tolist() == [False, True]


def test_utterances_are_spread_over_the_part(data: Dataset) -> None:
    names = [f"u{i:03d}" for i in range(14)]
    assert list(spread(data.corpus, 3).utterances["utterance"]) == [names[0], names[6], names[13]]
    assert len(spread(data.corpus, 14)) == len(spread(data.corpus, None)) == 14
    assert len(spread(data.corpus, 99)) == 14
    with pytest.raises(SettingError, match="utterances is 0, expected a whole number of at least"):
        spread(data.corpus, 0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"radii": ()}, "radii is (), expected at least one size, and each once."),
        (
            {"step_sizes": (0.1, 0.1)},
            "step_sizes is (0.1, 0.1), expected at least one size, and each once.",
        ),
        ({"step_sizes": (0.0,)}, "step_sizes is (0.0,), expected sizes above 0."),
        ({"radii": (float("inf"),)}, "radius is inf, expected a finite number of at least 0."),
        ({"steps": 0}, "steps is 0, expected a whole number of at least 1."),
    ],
)
def test_a_grid_outside_its_rule_is_refused(settings: dict, sentence: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        CalibrationGrid(**settings)
