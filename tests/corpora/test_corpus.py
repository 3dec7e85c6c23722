from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from servax.corpora import Corpus
from servax.errors import CorpusError, SettingError

Build = Callable[..., Corpus]
ROWS = [("s2", "sad"), ("s10", "angry"), ("s1", "sad"), ("s2", "happy")]


def test_properties(build: Build) -> None:
    corpus = build(ROWS)
    assert len(corpus) == 4
    assert corpus.speakers == ("s1", "s2", "s10")
    assert corpus.labels == ("angry", "happy", "sad")
    assert corpus.label_index.dtype == np.int64
    assert corpus.label_index.tolist() == [2, 0, 2, 1]
    assert [path.name for path in corpus.paths] == ["000.wav", "001.wav", "002.wav", "003.wav"]
    assert all(path.is_file() for path in corpus.paths)


def test_subset_by_speakers_keeps_labels_and_order(build: Build) -> None:
    part = build(ROWS).subset(speakers=["s2", "s10"])
    assert list(part.utterances["utterance"]) == ["u000", "u001", "u003"]
    assert part.labels == ("angry", "happy", "sad")
    assert part.speakers == ("s2", "s10")
    assert build(ROWS).subset(speakers="s2").speakers == ("s2",)


def test_subset_by_mask_and_speakers_is_their_intersection(build: Build) -> None:
    corpus = build(ROWS)
    sad = corpus.utterances["label"] == "sad"
    part = corpus.subset(sad, speakers=["s2"])
    assert list(part.utterances["utterance"]) == ["u000"]
    assert list(part.utterances.index) == [0]


def test_subset_leaves_the_whole_alone(build: Build) -> None:
    corpus = build(ROWS)
    corpus.subset(speakers=["s1"])
    assert len(corpus) == 4


def test_refuses_an_unknown_speaker(build: Build) -> None:
    sentence = "speaker is 's20', expected one of s1, s10, s2. Did you mean 's2'?"
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        build(ROWS).subset(speakers=["s20"])


@pytest.mark.parametrize(
    ("mask", "given"), [([0, 1, 0, 1], "int64 (4,)"), ([True, False], "bool (2,)")]
)
def test_refuses_a_mask(build: Build, mask: list[bool], given: str) -> None:
    sentence = f"mask is '{given}', expected booleans of shape (4,)."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        build(ROWS).subset(np.array(mask))


def test_refuses_an_empty_selection(build: Build) -> None:
    with pytest.raises(CorpusError, match=r"^made: no utterance is left, expected at least one\.$"):
        build(ROWS).subset(np.zeros(4, dtype=bool))


def test_refuses_a_table_without_a_column(build: Build) -> None:
    corpus = build(ROWS)
    table = corpus.utterances.drop(columns=["speaker", "end"])
    with pytest.raises(CorpusError, match=r"^made: the table lacks the columns speaker, end\.$"):
        replace(corpus, utterances=table)


def test_refuses_a_repeated_utterance(build: Build) -> None:
    corpus = build(ROWS)
    table = corpus.utterances.assign(utterance="same")
    with pytest.raises(CorpusError, match=r"^made: utterance 'same' stands twice\.$"):
        replace(corpus, utterances=table)


def test_refuses_a_label_outside_the_scheme(build: Build) -> None:
    with pytest.raises(CorpusError, match=r"^made: label 'sad' is not one of angry, happy\.$"):
        replace(build(ROWS), labels=("angry", "happy"))
