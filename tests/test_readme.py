"""The README is short, its pictures, links and figures are true, or this fails.

Its blocks of code are run with those of the documentation, by `tests/docs`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 120


def test_pictures_and_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_table_is_what_the_records_say() -> None:
    """Recomputed with scikit-learn from the committed predictions."""
    paths = sorted((ROOT / "results" / "ravdess_quick" / "records").glob("*.parquet"))
    frame = pd.concat([pd.read_parquet(path) for path in paths])
    conditions = {
        "clean": [("none", 0.0, "none")],
        "FGSM mean": [("fgsm", e, "oblivious") for e in (0.003, 0.006, 0.009, 0.012, 0.015)],
        "PGD mean": [("pgd", float(k), "oblivious") for k in (3, 6, 9, 12, 15)],
        "adaptive PGD-30": [("pgd", 30.0, "adaptive"), ("pgd", 30.0, "bpda")],
    }
    rows = re.findall(r"^\| `([\w-]+)` \|(.+)\|$", README, flags=re.MULTILINE)
    assert {name for name, _ in rows} == set(frame["defence"])
    for defence, cells in rows:
        shown = [float(cell.strip(" *†")) for cell in cells.split("|")]
        assert len(shown) == len(conditions)
        for value, wanted in zip(shown, conditions.values(), strict=True):
            scores = []
            for attack, strength, knowledge in wanted:
                part = frame[
                    (frame["defence"] == defence)
                    & (frame["attack"] == attack)
                    & np.isclose(frame["strength"], strength)
                    & (frame["knowledge"] == knowledge)
                ]
                if len(part):
                    scores.append(balanced_accuracy_score(part["label"], part["prediction"]))
            assert value == pytest.approx(100 * np.mean(scores), abs=0.051), defence


def test_the_comparison_with_the_baseline_is_what_the_records_say() -> None:
    """The best baseline of each column, on the same inputs and attacked itself."""
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    folder = ROOT / "results" / "ravdess_paper_cpu" / "records"
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    grid = {"fgsm": (0.003, 0.006, 0.009, 0.012, 0.015), "pgd": (3, 6, 9, 12, 15)}

    def mean(defence: str, attack: str, knowledge: str) -> float:
        rows = frame[(frame["defence"] == defence) & (frame["knowledge"] == knowledge)]
        parts = [
            rows[(rows["attack"] == attack) & np.isclose(rows["strength"], strength)]
            for strength in grid[attack]
        ]
        return 100 * float(
            np.mean([balanced_accuracy_score(part["label"], part["prediction"]) for part in parts])
        )

    baselines = [name for name in frame["defence"].unique() if name.startswith("adversarial-")]
    assert len(baselines) == 10
    expected = {
        "SSAD, oblivious": (["ssad"], "oblivious"),
        "best Adv, fed the same inputs (oblivious)": (baselines, "oblivious"),
        "best Adv, attacked itself (white box)": (baselines, "adaptive"),
        "SSAD, attacked itself (adaptive)": (["ssad"], "adaptive"),
    }
    for title, (names, knowledge) in expected.items():
        number = r"([\d.]+) ± [\d.]+ \(\d+ %\)"
        row = rf"^\| {re.escape(title)} \| {number} \| {number} \|"
        (cells,) = re.findall(row, page, re.MULTILINE)
        for attack, shown in zip(grid, cells, strict=True):
            best = max(mean(name, attack, knowledge) for name in names)
            assert float(shown) == pytest.approx(best, abs=0.051), (title, attack)
