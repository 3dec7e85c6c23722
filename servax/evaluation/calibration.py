"""Which step and radius of PGD fit what the paper says of its attack.

The paper prints neither. Its PE, RR and UAR together (equations 12 and 13) say that the undefended
target loses about 89 % of its correct predictions, averaged over k = 1 ... 30, and its baselines
flatten by k of about 9, so the ball is 6 to 9 steps wide. `risks` measures R_no, the share of
clean-correct utterances that the attack turns wrong, for each pair; `summary` compares it with both
findings.

Only what the target reads rightly is attacked: R is a share of nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from servax.attacks import PGD
from servax.corpora import Corpus
from servax.errors import ServaxError, SettingError
from servax.features import Dataset
from servax.models import classes_of
from servax.perturbation import check_radius
from servax.training import Compute

PAPER_RISK = 0.89
"""Mean R_no over k = 1 ... 30 that follows from the paper's PE, RR and UAR."""
PAPER_FLAT = 9
"""k by which the paper's baselines flatten."""
PAPER_WIDTH_STEPS = (6.0, 9.0)
"""How many steps wide the ball then is."""
FLAT = 0.01
"""A curve is flat from the first k whose R is within one point of its last."""
SHOWN_KS = (3, 9, 15)
"""k whose R is told beside the last one's."""
RULE = (
    "of the pairs whose radius is 6 to 9 steps (of all, where there is none), the one whose mean R "
    "is nearest to .89 in whole points; then the one that flattens nearest to k = 9; then the "
    "smaller radius, the smaller step"
)
"""How `summary` chooses."""


@dataclass(frozen=True, kw_only=True)
class CalibrationGrid:
    """The pairs that are tried."""

    step_sizes: tuple[float, ...] = (0.003, 0.005, 0.0078, 0.01)
    """Steps of PGD on the [0, 1] scale, as a list."""
    radii: tuple[float, ...] = (0.015, 0.02, 0.03, 0.06)
    """Radii of PGD, likewise (.02 is 1.6 dB)."""
    steps: int = 30
    """Largest k; every k from 1 is scored."""

    def __post_init__(self) -> None:
        for name in ("step_sizes", "radii"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or len(set(values)) < len(values):
                raise SettingError(name, values, "at least one size, and each once")
            if not min(values) > 0:
                raise SettingError(name, values, "sizes above 0")
        for step, radius in self.pairs:
            check_radius(radius)
            self.pgd(step, radius)

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Step and radius of each pair."""
        return list(itertools.product(self.step_sizes, self.radii))

    def pgd(self, step: float, radius: float) -> PGD:
        """Return the attack of one pair, from the clean input."""
        return PGD(step=step, epsilon=radius, steps=self.steps)


def risks(
    target: nn.Module,
    test: Dataset,
    grid: CalibrationGrid,
    *,
    batch_size: int = 16,
    compute: Compute | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Return R_no of the bare target for each pair and k; one trajectory of PGD gives every k.

    Args:
        target: From (B, 1, M, F) to logits (B, C).
        test: Held-out speakers.
        grid: The pairs and the largest k.
        batch_size: Utterances attacked together.
        compute: Device.
        progress: Called with (done, total) gradients.

    Returns:
        One row per pair and k: ``step radius k right lost risk``, with `right` the clean-correct
        utterances, `lost` those of them that are wrong after k steps, and `risk` their share.

    Raises:
        ServaxError: The target reads no utterance rightly.
    """
    device = (compute or Compute()).resolve()
    target = target.to(device).eval()
    right = _right(target, test, batch_size, device)
    parts = [right[i : i + batch_size] for i in range(0, len(right), batch_size)]
    total, done = len(grid.pairs) * len(parts) * grid.steps, 0
    lost = np.zeros((len(grid.pairs), grid.steps), dtype=np.int64)
    for part in parts:
        batch = test.batch(part, device)
        for row, pair in zip(lost, grid.pairs, strict=True):
            for k, x in enumerate(grid.pgd(*pair).trajectory(target, batch.x, batch.y)):
                row[k] += int((_classes(target, x) != batch.y).sum())
                done += 1
                if progress is not None:
                    progress(done, total)
    rows = [
        (*pair, k, len(right), count, count / len(right))
        for pair, row in zip(grid.pairs, lost.tolist(), strict=True)
        for k, count in enumerate(row, start=1)
    ]
    return pd.DataFrame(rows, columns=["step", "radius", "k", "right", "lost", "risk"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what `risks` found in one row per pair, with the pair that `RULE` chooses.

    Returns:
        ``step radius width_steps mean_risk`` (over all k), ``risk_3`` ... for `SHOWN_KS` and the
        last k, ``flat_k`` (the first k whose R is within one point of the last one's), ``distance``
        (of the mean to `PAPER_RISK`), ``nearest`` (the smallest distance of all pairs) and
        ``chosen``.
    """
    rows = []
    for step, radius in frame[["step", "radius"]].drop_duplicates().itertuples(index=False):
        curve = frame[(frame["step"] == step) & (frame["radius"] == radius)]
        risk = curve.set_index("k")["risk"]
        last = int(risk.index.max())
        mean = float(risk.mean())
        rows.append(
            {
                "step": step,
                "radius": radius,
                "width_steps": radius / step,
                "mean_risk": mean,
                **{f"risk_{k}": float(risk[k]) for k in SHOWN_KS if k < last},
                f"risk_{last}": float(risk[last]),
                "flat_k": int(((risk - risk[last]).abs() <= FLAT + 1e-9).idxmax()),
                "distance": abs(mean - PAPER_RISK),
            }
        )
    table = pd.DataFrame(rows)
    table["nearest"] = table.index == table["distance"].idxmin()
    table["chosen"] = table.index == _chosen(table)
    return table


def _chosen(table: pd.DataFrame) -> int:
    """Return the index of the pair that `RULE` chooses."""
    low, high = PAPER_WIDTH_STEPS
    fitting = table["width_steps"].between(low - 1e-9, high + 1e-9)
    among = table[fitting] if fitting.any() else table
    order = pd.DataFrame(
        {
            "distance": (100 * among["distance"]).round(),
            "flat": (among["flat_k"] - PAPER_FLAT).abs(),
            "radius": among["radius"],
            "step": among["step"],
        }
    )
    return int(order.sort_values(list(order.columns)).index[0])


def spread(corpus: Corpus, count: int | None) -> Corpus:
    """Return `count` utterances of a corpus, evenly spaced over it; all of them for none.

    Raises:
        SettingError: `count` is below 1.
    """
    if count is not None and count < 1:
        raise SettingError("utterances", count, "a whole number of at least 1")
    if count is None or count >= len(corpus):
        return corpus
    chosen = np.zeros(len(corpus), dtype=bool)
    chosen[np.linspace(0, len(corpus) - 1, count).round().astype(np.int64)] = True
    return corpus.subset(chosen)


def _right(
    target: nn.Module, test: Dataset, batch_size: int, device: torch.device
) -> NDArray[np.int64]:
    """Return the positions of the utterances that the target reads rightly."""
    found = [
        batch.positions[(_classes(target, batch.x) == batch.y).cpu().numpy()]
        for batch in test.batches(batch_size, device)
    ]
    right = np.concatenate(found)
    if not len(right):
        raise ServaxError(
            f"the model reads none of the {len(test)} utterances rightly, so no attack can take "
            "anything from it; expected a trained model, or more utterances."
        )
    return right


@torch.no_grad()
def _classes(target: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return classes_of(target(x))
