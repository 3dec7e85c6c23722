"""Which utterances an audit hears."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from servax.corpora import Selection
from servax.errors import ServaxError, SettingError
from servax.evaluation.dataset import chosen, some


def selected(voices: Path, utterances: int | None, **changes: int) -> Selection:
    return Selection(corpus=str(voices), groups=3, utterances=utterances, **changes)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 11, 16, 99])
def test_classes_and_their_speakers_have_equal_shares(voices: Path, count: int) -> None:
    selection = selected(voices, count)
    test = selection.fold().test
    found = some(test, count, seed=selection.seed).utterances
    assert len(found) == min(count, len(test)) == min(count, 16)
    classes = Counter(found["label"])
    assert max(classes.values()) - min(classes[label] for label in test.labels) <= 1
    for label in test.labels:
        speakers = Counter(found[found["label"] == label]["speaker"])
        shares = [speakers[speaker] for speaker in test.speakers]
        assert max(shares) - min(shares) <= 1


def test_a_seed_decides_the_utterances(voices: Path) -> None:
    test = selected(voices, 4).fold().test
    first, again, other = (chosen(test, 4, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_they_are_those_of_the_group_held_out(voices: Path) -> None:
    groups = [selected(voices, None, held_out=number).fold().test.speakers for number in (1, 2, 3)]
    assert sorted(speaker for group in groups for speaker in group) == [f"s{n}" for n in range(6)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"held_out": 4}, r"held_out is 4, expected a group from 1 to 3"),
        ({"held_out": 0}, r"held_out is 0, expected a group from 1 to 3"),
        ({"utterances": 0}, r"utterances is 0, expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_heard_is_refused(
    voices: Path, changes: dict[str, int], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        Selection(**{"corpus": str(voices), "groups": 3} | changes).fold()


def test_more_groups_than_speakers_are_refused(voices: Path) -> None:
    with pytest.raises(ServaxError, match="6"):
        Selection(corpus=str(voices), groups=9).fold()
