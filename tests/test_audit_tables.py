"""The audit's table in the docs is what its records say, recomputed another way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

ROOT = Path(__file__).parents[1]
RADIUS = 0.02
COLUMNS = {
    "clean": "none",
    "oblivious": "oblivious",
    "transfer": "transfer",
    "black box": "black_box",
    "BPDA": "bpda",
    "adaptive": "adaptive",
}
ROW = re.compile(r"^\| ([\w.-]+) \|((?: (?:[\d.]+|–) \|){6})$", re.MULTILINE)


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return pd.read_parquet(ROOT / "results" / "ravdess_audit" / "records" / "audit.parquet")


def left(records: pd.DataFrame, system: str, knowledge: str, radius: float = RADIUS) -> float:
    """UAR in % where an utterance counts only if no attack within the radius broke it."""
    rows = records[(records["defence"] == system) & (records["knowledge"] == knowledge)]
    rows = rows[~rows["attack"].str.startswith("pgd-waveform") & (rows["strength"] <= radius)]
    if rows.empty:
        return np.nan
    right = rows.assign(right=rows["prediction"] == rows["label"])
    kept = right.groupby(["utterance", "label"])["right"].all().reset_index()
    predicted = kept["label"].where(kept["right"], "broken")
    # balanced_accuracy_score averages the recalls of the true classes.
    with np.errstate(all="ignore"):
        return 100 * float(recall(kept["label"], predicted))


def recall(labels: pd.Series, predicted: pd.Series) -> float:
    numbers = {name: i for i, name in enumerate(sorted(set(labels)))}
    truth = labels.map(numbers)
    # A broken utterance is given to the next class, so that no class is unknown to the metric.
    guess = predicted.map(numbers).fillna((truth + 1) % len(numbers))
    return float(balanced_accuracy_score(truth, guess))


def test_the_table_is_what_the_records_say(records: pd.DataFrame) -> None:
    rows = ROW.findall((ROOT / "docs" / "audit.md").read_text(encoding="utf-8"))
    assert [name for name, _ in rows] == [
        "undefended",
        "adversarial-similarity-0.012",
        "pgd-at",
        "ssad",
        "ssad-residual",
    ]
    for name, cells in rows:
        shown = [cell.strip() for cell in cells.strip(" |").split("|")]
        for cell, knowledge in zip(shown, COLUMNS.values(), strict=True):
            value = left(records, name, knowledge)
            wanted = np.nan if cell == "–" else float(cell)
            assert value == pytest.approx(wanted, abs=0.051, nan_ok=True), (name, knowledge)


@pytest.mark.parametrize(
    ("system", "shown"),
    [("pgd-at", 32.0), ("ssad", 21.1), ("adversarial-similarity-0.012", 18.0), ("undefended", 1.6)],
)
def test_what_is_left_at_a_quarter_of_the_radius(
    records: pd.DataFrame, system: str, shown: float
) -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    assert f"{shown} %" in page
    assert left(records, system, "adaptive", 0.005) == pytest.approx(shown, abs=0.051)
