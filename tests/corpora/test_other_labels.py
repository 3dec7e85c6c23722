"""Other columns as labels, and folds that let speakers stand on both sides."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from servax.corpora import Corpus, Fold, describe, load
from servax.corpora.folds import every_fifth
from servax.errors import CorpusError, LeakError, SettingError

Build = Callable[..., Corpus]
Real = Callable[[str], Path]
SPEAKERS, TEXTS, TAKES = ("a", "b", "c", "d"), ("t1", "t2", "t10"), 4
PARTS = ("train", "validation", "test")


def exactly(sentence: str) -> str:
    return f"^{re.escape(sentence)}$"


@pytest.fixture
def people(build: Build) -> Corpus:
    """Four speakers, two of each gender, say three texts four times; the speaker is the label."""
    said = [(speaker, text) for speaker in SPEAKERS for text in TEXTS for _ in range(TAKES)]
    corpus = build([(speaker, speaker) for speaker, _ in said])
    table = corpus.utterances.assign(text=[text for _, text in said])
    return replace(corpus, scheme="speaker", utterances=table)


def names(corpus: Corpus) -> set[str]:
    return set(corpus.utterances["utterance"])


def test_text_folds_are_those_of_leave_one_group_out(people: Corpus) -> None:
    folds = people.folds("text")
    utterances = people.utterances["utterance"].to_numpy()
    texts = people.utterances["text"].to_numpy()
    expected = {
        frozenset(utterances[test])
        for _, test in LeaveOneGroupOut().split(utterances, groups=texts)
    }
    assert {frozenset(names(fold.test)) for fold in folds} == expected
    assert [fold.test.utterances["text"].iloc[0] for fold in folds] == list(TEXTS)  # t2 before t10
    for index, fold in enumerate(folds):
        assert (fold.index, fold.apart) == (index, "text")
        parts = [names(getattr(fold, part)) for part in PARTS]
        assert set.union(*parts) == set(utterances)
        assert sum(map(len, parts)) == len(utterances)
        assert fold.train.speakers == fold.validation.speakers == fold.test.speakers == SPEAKERS
        # Of 8 utterances of a speaker the first and the sixth validate.
        assert len(fold.validation) == 2 * len(SPEAKERS)
    assert [f.hash for f in folds] == [f.hash for f in people.folds("text")]


def test_gender_keeps_the_folds_of_speakers(people: Corpus) -> None:
    gender = people.utterances["speaker"].map(dict(zip(SPEAKERS, "fmfm", strict=True)))
    table = people.utterances.assign(label=gender, emotion=gender)
    corpus = replace(people, scheme="gender", labels=("f", "m"), utterances=table)
    folds = corpus.folds(4)
    utterances = people.utterances["utterance"].to_numpy()
    who = people.utterances["speaker"].to_numpy()
    split = GroupKFold(n_splits=4).split(utterances, groups=who)
    expected = {frozenset(utterances[test]) for _, test in split}
    assert {frozenset(names(fold.test)) for fold in folds} == expected
    assert {fold.apart for fold in folds} == {"speaker"}


def test_every_fifth_by_hand() -> None:
    found = every_fifth(
        ["u10", "u2", "u1", "u3", "u4", "u5", "u6", "v1"], ["a"] * 7 + ["b"], together=()
    )
    assert found == {"u1", "u6", "v1"}  # u1 u2 u3 u4 u5 u6 u10
    pair = [frozenset({"u6", "u2"}), frozenset({"u1", "v1"})]
    found = every_fifth(
        ["u10", "u2", "u1", "u3", "u4", "u5", "u6", "v1"], ["a"] * 7 + ["b"], together=pair
    )
    assert found == {"u1", "v1"}


def test_a_fold_by_text_is_stored_with_what_it_keeps_apart(people: Corpus, tmp_path: Path) -> None:
    fold, path = people.folds("text")[1], tmp_path / "fold.json"
    fold.save(path)
    told = json.loads(path.read_text())
    assert (told["apart"], told["hash"]) == ("text", fold.hash)


def test_refuses_a_tested_text_in_training(people: Corpus) -> None:
    texts = people.utterances["text"]
    first, second = people.subset(texts == "t1"), people.subset(texts == "t2")
    sentence = "text 't1' stands in train and in test: give each tested text to test only."
    with pytest.raises(LeakError, match=exactly(sentence)):
        Fold(0, train=people.subset(texts != "t2"), validation=second, test=first, apart="text")
    with pytest.raises(LeakError, match=r"^speaker a stands in train and in validation"):
        Fold(0, train=second, validation=second, test=first)


def test_refuses_a_recording_that_trains_and_tests(people: Corpus) -> None:
    shutil.copy(people.paths[1], people.paths[5])  # a says t1, a says t2
    with pytest.raises(LeakError, match=r"^u005 \(train\) and u001 \(test\) are the same rec"):
        people.folds("text")


@pytest.mark.parametrize(
    ("scheme", "groups", "sentence"),
    [
        (
            "speaker",
            4,
            "groups is 4, expected 'text' or 'official' with scheme 'speaker': "
            "speaker-independent folds would test speakers that train nowhere.",
        ),
        (
            "gender",
            "text",
            "groups is 'text', expected 'speaker' or a whole number with scheme 'gender': whoever "
            "knows a speaker knows the gender.",
        ),
        (
            "speaker",
            "official",
            "groups is 'official', expected a whole number, 'speaker' or 'text': made has no "
            "official split.",
        ),
    ],
)
def test_refuses_what_makes_no_sense(
    people: Corpus, scheme: str, groups: int | str, sentence: str
) -> None:
    with pytest.raises(SettingError, match=exactly(sentence)):
        replace(people, scheme=scheme).folds(groups)


@pytest.mark.parametrize(
    ("text", "has"), [("", "48 utterances without a text"), ("same", "one text")]
)
def test_refuses_texts_that_cannot_be_left_out(people: Corpus, text: str, has: str) -> None:
    corpus = replace(people, utterances=people.utterances.assign(text=text))
    sentence = f"groups is 'text', expected a corpus of at least 2 texts, made has {has}."
    with pytest.raises(SettingError, match=exactly(sentence)):
        corpus.folds("text")


def test_refuses_to_test_a_class_that_never_trains(people: Corpus) -> None:
    table = people.utterances.assign(label=people.utterances["text"])  # as the digits of FSDD
    corpus = replace(people, scheme="native", labels=TEXTS, utterances=table)
    sentence = (
        "groups is 'text', expected a division in which every class trains: 't1' would only be "
        "tested."
    )
    with pytest.raises(SettingError, match=exactly(sentence)):
        corpus.folds("text")


def manifest(folder: Path, genders: str) -> Path:
    lines = ["path,label,speaker,gender"]
    for number, gender in enumerate(genders.split(",")):
        (folder / f"{number}.wav").touch()
        lines.append(f"{number}.wav,calm,s{11 - number},{gender}")
    table = folder / "mine.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def test_a_column_becomes_the_label(tmp_path: Path) -> None:
    table = manifest(tmp_path, "male,female,male")
    who, gender = load(table, scheme="speaker"), load(table, scheme="gender")
    assert (who.labels, list(who.label_index)) == (("s9", "s10", "s11"), [2, 1, 0])
    assert (gender.labels, list(gender.label_index)) == (("female", "male"), [1, 0, 1])
    assert list(gender.utterances["emotion"]) == ["calm"] * 3
    assert gender.emotions == ("calm",)


@pytest.mark.parametrize(
    ("genders", "sentence"),
    [
        (
            "male,,female",
            "1 of 3 utterances do not say their gender. Use scheme 'native', or name it for each "
            "utterance.",
        ),
        (
            "male,male",
            "every utterance is of 'male', expected at least two classes. Use scheme 'native'.",
        ),
    ],
)
def test_refuses_genders_that_are_no_classes(tmp_path: Path, genders: str, sentence: str) -> None:
    table = manifest(tmp_path, genders)
    with pytest.raises(
        CorpusError, match=exactly(f"mine cannot serve scheme 'gender': {sentence}")
    ):
        load(table, scheme="gender")


def test_only_fsdd_says_what_its_official_test_is() -> None:
    is_test = describe("fsdd").official_test
    assert is_test is not None
    assert [is_test(f"7_theo_{i}") for i in (0, 4, 5, 10, 44)] == [True, True, False, False, False]
    assert describe("ravdess").official_test is None


@pytest.mark.real_corpus
@pytest.mark.parametrize("scheme", ["native", "speaker"])
def test_the_official_fold_of_fsdd(real_data: Real, scheme: str) -> None:
    corpus = load("fsdd", real_data("fsdd"), scheme=scheme)
    (fold,) = corpus.folds("official")
    test = {name for name in names(corpus) if int(name.split("_")[2]) < 5}
    assert (len(fold.train) + len(fold.validation), len(fold.test)) == (2700, 300)
    assert names(fold.train) | names(fold.validation) == names(corpus) - test
    assert names(fold.test) == test
    each = 54 if scheme == "native" else 90  # a fifth of 270 or 450
    assert np.bincount(fold.validation.label_index).tolist() == [each] * len(corpus.labels)


@pytest.mark.real_corpus
def test_speakers_of_ravdess_share_no_statement(real_data: Real) -> None:
    corpus = load("ravdess", real_data("ravdess"), scheme="speaker")
    assert corpus.labels == describe("ravdess").speakers
    for fold, tested in zip(corpus.folds("text"), ("01", "02"), strict=True):
        statement = {
            part: {name.split("-")[4] for name in names(getattr(fold, part))} for part in PARTS
        }
        assert statement["test"] == {tested}
        assert statement["train"] == statement["validation"] == {"01", "02"} - {tested}
        sizes = [np.bincount(getattr(fold, p).label_index).tolist() for p in PARTS]
        assert sizes == [[24] * 24, [6] * 24, [30] * 24]


@pytest.mark.real_corpus
def test_the_published_pair_of_ravdess_is_not_parted(real_data: Real) -> None:
    corpus = load("ravdess", real_data("ravdess"))
    (pair,) = describe("ravdess").known_duplicates
    # Statement 2 trains in the first fold. Counted singly, one of the two would validate.
    alone = corpus.subset(corpus.utterances["text"] == "02").utterances
    chosen = every_fifth(list(alone["utterance"]), list(alone["label"]))
    assert len(pair & chosen) == 1
    assert pair <= names(corpus.folds("text")[0].train)
