from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from servax.report import Measures, collect
from servax.report.run_tables import spread_table


@pytest.fixture
def seeds(small: pd.DataFrame) -> pd.DataFrame:
    """Return `small` as seed 0, and as seeds 1 and 5 with some answers exchanged."""
    rng = np.random.default_rng(2)
    parts = [small]
    for seed in (1, 5):
        guess = rng.choice(["angry", "happy", "neutral", "sad"], len(small))
        keep = rng.uniform(size=len(small)) < 0.8
        parts.append(small.assign(seed=seed, prediction=small["prediction"].where(keep, guess)))
    return pd.concat(parts)


def test_each_seed_is_pooled_over_folds(seeds: pd.DataFrame) -> None:
    part = seeds[(seeds["defence"] == "ssad") & (seeds["attack"] == "none")]
    values = [
        100 * balanced_accuracy_score(rows["label"], rows["prediction"])
        for _, rows in part.groupby("seed")
    ]
    table = spread_table(Measures(collect(seeds)), "seed")
    assert table is not None
    assert table.numbers is not None
    told = table.numbers.set_index(["defence", "column"]).loc[("ssad", "clean")]
    assert (told["mean"], told["sd"]) == pytest.approx((np.mean(values), np.std(values)))
    assert told["seeds"] == 3
    line = {row[0].text: row for row in table.rows}["ssad"]
    assert line[1].text == f"{np.mean(values):.1f} ± {np.std(values):.1f}"
    assert table.note.startswith("3 seeds (0, 1, 5), the folds of each pooled")
    assert [head.text for head in table.head[1:]] == [
        "clean",
        "FGSM mean",
        "PGD mean",
        "adaptive PGD-30",
    ]


def test_left_out_for_one_seed_and_a_gap_is_a_dash(
    small: pd.DataFrame, seeds: pd.DataFrame
) -> None:
    assert spread_table(Measures(collect(small)), "seed") is None
    gap = (seeds["defence"] == "ssad") & (seeds["attack"] == "fgsm") & (seeds["strength"] == 0.003)
    table = spread_table(Measures(collect(seeds[~gap])), "seed")
    assert table is not None
    line = {row[0].text: row for row in table.rows}["ssad"]
    assert line[2].text == "–"
    assert line[1].text != "–"
