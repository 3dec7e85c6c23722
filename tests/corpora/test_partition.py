from __future__ import annotations

import re

import pytest
from sklearn.model_selection import LeaveOneGroupOut

from servax.corpora.folds import grouped, leave_one_speaker_out, natural_order
from servax.errors import SettingError


def test_natural_order_counts() -> None:
    names = ["s10", "s2", "s1", "a", "2b", "10b", "s2x"]
    assert sorted(names, key=natural_order) == ["2b", "10b", "a", "s1", "s2", "s2x", "s10"]


def test_grouped_by_hand() -> None:
    assert grouped(["s10", "s1", "s2", "s3", "s4"], 3) == [
        (("s10",), ("s3", "s4"), ("s1", "s2")),
        (("s1", "s2"), ("s10",), ("s3", "s4")),
        (("s3", "s4"), ("s1", "s2"), ("s10",)),
    ]


@pytest.mark.parametrize(
    ("count", "groups"), [(3, 3), (7, 3), (7, 6), (10, 10), (24, 6), (24, 5), (91, 10), (91, 91)]
)
def test_grouped_covers_everybody_once(count: int, groups: int) -> None:
    speakers = [f"s{i}" for i in range(count)]
    folds = grouped(speakers, groups)
    tested = [speaker for _, _, test in folds for speaker in test]
    assert sorted(tested) == sorted(speakers)
    sizes = [len(test) for _, _, test in folds]
    assert max(sizes) - min(sizes) <= 1
    for train, validation, test in folds:
        assert sorted(train + validation + test) == sorted(speakers)


def test_leave_one_out_agrees_with_scikit_learn() -> None:
    speakers = [f"{session}{letter}" for session in range(1, 6) for letter in "FM"]
    folds = leave_one_speaker_out({s: frozenset(s[0]) for s in speakers})
    oracle = LeaveOneGroupOut().split(speakers, groups=speakers)
    for (train, validation, test), (rest, left) in zip(folds, oracle, strict=True):
        assert test == (speakers[left[0]],)
        assert validation == (test[0][0] + {"F": "M", "M": "F"}[test[0][1]],)
        assert {*train, *validation} == {speakers[i] for i in rest}


def test_without_sessions_the_next_speaker_validates() -> None:
    folds = leave_one_speaker_out({name: frozenset() for name in ("a", "b", "c")})
    assert [(validation, test) for _, validation, test in folds] == [
        (("b",), ("a",)),
        (("c",), ("b",)),
        (("a",), ("c",)),
    ]


def test_the_partner_is_the_next_of_the_same_session() -> None:
    sessions = {"a": {"1"}, "b": {"2"}, "c": {"1"}, "d": {"2"}, "e": {"3"}}
    folds = leave_one_speaker_out({name: frozenset(s) for name, s in sessions.items()})
    partners = {test[0]: validation[0] for _, validation, test in folds}
    assert partners == {"a": "c", "b": "d", "c": "a", "d": "b", "e": "a"}


@pytest.mark.parametrize("groups", [2, 0, -1, 6, True])
def test_refuses_a_number_of_groups(groups: int) -> None:
    sentence = (
        f"groups is {groups!r}, expected 'speaker' or a whole number from 3 to 5 (the speakers)."
    )
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        grouped(["a", "b", "c", "d", "e"], groups)


def test_refuses_to_leave_one_of_two_out() -> None:
    sentence = "groups is 'speaker', expected a corpus of at least 3 speakers, this one has 2."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        leave_one_speaker_out({"a": frozenset(), "b": frozenset()})
