"""What research/attacked_recogniser.py tells of attacked utterances."""

from __future__ import annotations

import attacked_recogniser
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

ROWS = [  # utterance, label, how many of two answers were right: clean, then at 40 dB
    ("a", "happy", 2, 1),
    ("b", "happy", 2, 2),
    ("c", "sad", 2, 0),
    ("d", "sad", 0, 0),
    ("e", "sad", 1, 0),
]


def test_the_summary_is_scikit_learns_recall_over_all_answers() -> None:
    columns = ["utterance", "label", "knowledge", "snr_db", "steps", "draws", "right"]
    clean = [(name, label, "none", np.inf, 0, 0, right) for name, label, right, _ in ROWS]
    attacked = [(name, label, "adaptive", 40.0, 20, 2, right) for name, label, _, right in ROWS]
    told = attacked_recogniser.summary(pd.DataFrame(clean + attacked, columns=columns))
    told = told.set_index("knowledge")
    for knowledge, place in (("none", 2), ("adaptive", 3)):
        labels = [row[1] for row in ROWS for _ in range(2)]
        said = [row[1] if answer < row[place] else "?" for row in ROWS for answer in range(2)]
        uar = 100 * recall_score(labels, said, labels=["happy", "sad"], average="macro")
        assert told.loc[knowledge, "once"] == pytest.approx(uar, abs=1e-3)
    assert told.loc["adaptive", "always"] == pytest.approx(25.0)
    assert told.loc["adaptive", "of_clean"] == pytest.approx(0.5)
    assert set(told["utterances"]) == {5}
