from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from servax.corpora import COLUMNS, Corpus
from servax.features import Dataset, Features, Scale, ScaleSettings

LABELS = ("angry", "happy", "neutral", "sad")
MELS, FRAMES = 32, 40

Build = Callable[..., Dataset]


def make_dataset(
    labels: Sequence[int], *, seed: int = 0, classes: Sequence[str] = LABELS
) -> Dataset:
    """Return utterances of noise in which a band of Mel bins, one per class, is louder."""
    draws = np.random.default_rng(seed)
    decibels = draws.normal(-50.0, 5.0, (len(labels), MELS, FRAMES)).astype(np.float32)
    height = MELS // len(classes)
    for row, label in enumerate(labels):
        decibels[row, label * height : (label + 1) * height] += 35.0
    names = [f"u{i:03d}" for i in range(len(labels))]
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(len(labels)))
    table["utterance"] = names
    table["label"] = table["emotion"] = [classes[label] for label in labels]
    table["speaker"] = [f"s{i % 2}" for i in range(len(labels))]
    table["start"], table["end"] = 0.0, float("nan")
    corpus = Corpus("made", Path(), "native", tuple(classes), table)
    scale = Scale(ScaleSettings(top_db=0.0))
    return Dataset(corpus, Features(decibels, tuple(names)), scale)


@pytest.fixture(name="make_dataset")
def _make_dataset() -> Build:
    return make_dataset
