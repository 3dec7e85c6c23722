from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from servax.errors import CacheError, SettingError
from servax.features import Dataset, Features, Scale, ScaleSettings, fit_scale


@pytest.fixture
def corpus(make_corpus):
    return make_corpus(7)


@pytest.fixture
def features(corpus):
    """Return features whose rows stand in another order than the corpus: row i is all -i dB."""
    names = tuple(reversed([str(name) for name in corpus.utterances["utterance"]]))
    levels = -np.arange(7, dtype=np.float32)[:, None, None] * np.ones((7, 3, 4), np.float32)
    return Features(levels, names)


def test_each_utterance_gets_its_own_features_and_label(corpus, features):
    data = Dataset(corpus, features, Scale(ScaleSettings(top_db=0.0, window_db=10.0)))
    assert len(data) == 7
    assert data.classes == 2
    batch = data.batch(np.array([0, 6, 3]))
    assert batch.x.shape == (3, 1, 3, 4)
    assert batch.x.dtype == torch.float32
    # Utterance 0 lies in row 6 (-6 dB, .4 of the window), utterance 6 in row 0 (0 dB).
    assert batch.x[:, 0, 0, 0].tolist() == pytest.approx([0.4, 1.0, 0.7])
    assert batch.y.tolist() == [0, 0, 1]  # files take turns: angry, sad, angry, ...
    assert batch.y.dtype == torch.int64
    assert batch.positions.tolist() == [0, 6, 3]


def test_batches_yield_everything_once_in_order(corpus, features):
    data = Dataset(corpus, features, Scale(ScaleSettings(top_db=0.0, window_db=10.0)))
    batches = list(data.batches(3))
    assert [len(batch.y) for batch in batches] == [3, 3, 1]
    assert np.concatenate([batch.positions for batch in batches]).tolist() == list(range(7))
    expected = data.batch(np.arange(7))
    assert torch.equal(torch.cat([batch.x for batch in batches]), expected.x)
    assert torch.equal(torch.cat([batch.y for batch in batches]), expected.y)


def test_a_part_of_a_corpus_reads_its_own_rows(corpus, features):
    part = corpus.subset(speakers=["s1"])  # utterances 1 and 4: rows 5 and 2
    assert features.rows(part).tolist() == [5, 2]


def test_fit_scale_looks_at_the_training_part_alone(corpus, features):
    part = corpus.subset(speakers=["s1"])
    assert fit_scale(part, features, window_db=50.0).settings == ScaleSettings(-2.0, 50.0)
    assert fit_scale(corpus, features).settings == ScaleSettings(0.0, 80.0)


def test_utterances_without_features_are_refused(corpus, features):
    known = Features(features.logmel_db[:5], features.utterances[:5])
    sentence = (
        "own: 2 of 7 utterances have no features (first: 0.wav); extract those of the whole "
        "corpus before it is divided."
    )
    with pytest.raises(CacheError, match=f"^{re.escape(sentence)}$"):
        Dataset(corpus, known, Scale(ScaleSettings(top_db=0.0)))


def test_batches_of_nothing_are_refused(corpus, features):
    data = Dataset(corpus, features, Scale(ScaleSettings(top_db=0.0)))
    sentence = "batch size is 0, expected a whole number of at least 1."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        next(data.batches(0))
