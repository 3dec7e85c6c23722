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
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from servax.attacks import PGD
from servax.corpora import Corpus
from servax.errors import ServaxError, SettingError
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import AttackEngine, Identity
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.settings import CalibrationGrid
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.features import Dataset
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
    engine = AttackEngine(
        dataset=EvaluationSet.of(test),
        identity=Identity("target", 1, 0),
        batch_size=batch_size,
        compute=compute or Compute(),
    )
    system = System(name=UNDEFENDED, model=target)
    predictions = engine.predictions(system)
    right = (predictions == engine.dataset.y).numpy()
    if not right.any():
        raise ServaxError(
            f"the model reads none of the {len(test)} utterances rightly, so no attack can take "
            "anything from it; expected a trained model, or more utterances."
        )
    count = int(right.sum())
    ticks = itertools.count(1)
    attacks = [PGD(step=step, epsilon=size, steps=grid.steps) for step, size in grid.pairs]
    known: dict[str, Any] = {"gradients": grid.steps, "everyone": False, "draws": 1}
    ks = tuple(range(1, grid.steps + 1))
    threats = [Threat("pgd", "adaptive", each, ks=ks, **known) for each in attacks]
    total = sum(threat.ticks(count, batch_size) for threat in threats)
    if progress is not None:
        engine = replace(engine, tick=lambda: progress(next(ticks), total))
    rows = []
    for (step, radius), threat in zip(grid.pairs, threats, strict=True):
        found = engine.on_system(threat, system, predictions).frame
        wrong = found["prediction"] != found["label"]
        for k, each in wrong.groupby(found["strength"]):
            lost = int(each.to_numpy()[right].sum())
            rows.append((step, radius, int(k), count, lost, lost / count))
    return pd.DataFrame(rows, columns=["step", "radius", "k", "right", "lost", "risk"])


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what `risks` found in one row per pair, with the pair that `RULE` chooses.

    Returns:
        ``step radius width_steps mean_risk`` (over all k), ``risk_3`` ... for `SHOWN_KS` and the
        last k, ``flat_k`` (the first k whose R is within one point of the last one's), ``distance``
        (of the mean to `PAPER_RISK`), ``nearest`` (the smallest distance of all pairs) and
        ``chosen``.
    """
    pairs = pd.MultiIndex.from_frame(frame[["step", "radius"]].drop_duplicates())
    curves = frame.pivot_table("risk", ["step", "radius"], "k").loc[pairs]
    last = int(frame["k"].max())
    table = pairs.to_frame(index=False)
    table["width_steps"] = table["radius"] / table["step"]
    table["mean_risk"] = curves.mean(axis=1).to_numpy()
    for k in (*(each for each in SHOWN_KS if each < last), last):
        table[f"risk_{k}"] = curves[k].to_numpy()
    flat = curves.sub(curves[last], axis=0).abs() <= FLAT + 1e-9
    table["flat_k"] = flat.idxmax(axis=1).to_numpy()
    table["distance"] = (table["mean_risk"] - PAPER_RISK).abs()
    table["nearest"] = table.index == table["distance"].idxmin()
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
    table["chosen"] = table.index == order.sort_values(list(order.columns)).index[0]
    return table


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
