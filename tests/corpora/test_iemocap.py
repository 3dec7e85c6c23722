"""IEMOCAP is given out on request only, so these tests write a tree of its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from iemocap_shape import write_tree

from servax.corpora import describe, load

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
DIALOGUES = ("impro01", "script02_1", "script01_1b")


def line(name: str, label: str) -> str:
    return (
        f"[6.2901 - 8.2357]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]\n"
        f"C-E2:\tNeutral;\t()\n"
        f"A-F1:\tval 3; act 2; dom  2;\t()\n"
    )


def write_dialogue(root: Path, session: int, marker: str, dialogue: str) -> None:
    """Write 10 turns: letters F and M in turn, five labels each."""
    name = f"Ses0{session}{marker}_{dialogue}"
    labels = root / f"Session{session}" / "dialog" / "EmoEvaluation"
    sounds = root / f"Session{session}" / "sentences" / "wav" / name
    labels.mkdir(parents=True, exist_ok=True)
    sounds.mkdir(parents=True)
    text = HEADER
    for turn in range(10):
        utterance = f"{name}_{'FM'[turn % 2]}{turn // 2:03d}"
        text += line(utterance, ("neu", "hap", "exc", "sad", "ang")[turn // 2])
        (sounds / f"{utterance}.wav").touch()
    (labels / f"{name}.txt").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for session in range(1, 6):
        for marker in "FM":
            for dialogue in DIALOGUES:
                write_dialogue(tmp_path, session, marker, dialogue)
    return tmp_path


def test_the_speaker_is_not_the_dialogue_prefix(root: Path) -> None:
    corpus = load("iemocap", root)
    assert len(corpus) == 5 * 2 * 3 * 10
    table = corpus.utterances.set_index("utterance")
    row = table.loc["Ses03F_impro01_M002"]
    assert (row["speaker"], row["gender"], row["session"]) == ("3M", "male", "3")
    assert row["path"] == "Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_M002.wav"
    assert row["emotion"] == "excited"
    # Half of all turns are spoken by the one who does not wear the markers.
    prefix = table.index.str[4] + table.index.str[5]  # 3F of Ses03F_impro01_M002
    assert (prefix != table["speaker"]).mean() == 0.5


def test_ten_folds_of_the_paper(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files of this tree are empty, so recordings cannot be compared here.
    monkeypatch.setattr("servax.corpora.corpus.refuse_leaks", lambda parts, **_: None)
    folds = load("iemocap", root, scheme="four").folds("speaker")
    assert len(folds) == 10
    for fold in folds:
        (test,), (validation,) = fold.test.speakers, fold.validation.speakers
        assert test[0] == validation[0]
        assert {test[1], validation[1]} == {"F", "M"}
        assert len(fold.train.speakers) == 8
        assert len(fold.test) == 30


def test_four_classes_count_excited_as_happy(root: Path) -> None:
    corpus = load("iemocap", root, scheme="four")
    assert corpus.labels == ("angry", "happy", "neutral", "sad")
    assert np.bincount(corpus.label_index).tolist() == [60, 120, 60, 60]


def test_what_the_description_says_is_the_published_count() -> None:
    counts = describe("iemocap").counts
    four = {name: counts[name] for name in ("neutral", "happy", "excited", "sad", "angry")}
    assert four == {"neutral": 1708, "happy": 595, "excited": 1041, "sad": 1084, "angry": 1103}
    assert sum(four.values()) == 5531
    assert sum(counts.values()) == 10_039 - 2_507
    assert describe("iemocap").speakers == tuple(f"{i}{x}" for i in range(1, 6) for x in "FM")


def test_subfolders_leftovers_and_turns_without_agreement_are_passed_over(root: Path) -> None:
    labels = root / "Session1" / "dialog" / "EmoEvaluation"
    (labels / "Categorical").mkdir()
    (labels / "Categorical" / "Ses01F_impro01_e1_cat.txt").write_text(
        line("Ses01F_impro01_F000", "ang")
    )
    (labels / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07\xff[")
    (labels / "folder.txt").mkdir()
    table = labels / "Ses01F_impro01.txt"
    table.write_text(table.read_text() + line("Ses01F_impro01_F009", "xxx"))
    corpus = load("iemocap", root)
    assert len(corpus) == 300
    assert corpus.left_out == ()


def test_a_release_folder_in_between_is_found(root: Path, tmp_path: Path) -> None:
    release = tmp_path / "IEMOCAP_full_release"
    release.mkdir()
    for session in list(root.glob("Session*")):
        session.rename(release / session.name)
    corpus = load("iemocap", root)
    assert len(corpus) == 300
    assert corpus.utterances["path"][0].startswith("IEMOCAP_full_release/Session1/sentences/")


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        (
            line("Ses01M_impro01_F009", "neu"),
            "Ses01F_impro01.txt: Ses01M_impro01_F009 is not an utterance of this dialogue, "
            "it is left out.",
        ),
        (
            line("Ses01F_impro01_X009", "neu"),
            "Ses01F_impro01.txt: Ses01F_impro01_X009 is not an utterance of this dialogue, "
            "it is left out.",
        ),
        (
            line("Ses01F_impro01_F009", "hpy"),
            "Ses01F_impro01.txt: Ses01F_impro01_F009 has the unknown label 'hpy', it is left out.",
        ),
        (
            line("Ses01F_impro01_F009", "neu"),
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F009.wav does not exist, "
            "Ses01F_impro01_F009 is left out.",
        ),
        (
            line("Ses01F_impro01_F000", "sad"),
            "Ses01F_impro01_F000 is labelled twice, the second label is left out.",
        ),
        (
            "[6.2901 - 8.2357] Ses01F_impro01_F000 neu\n",
            "Ses01F_impro01.txt: '[6.2901 - 8.2357] Ses01F_impro01_F000 neu' is not a label line, "
            "it is left out.",
        ),
    ],
)
def test_a_strange_line_is_left_out_and_reported(root: Path, added: str, sentence: str) -> None:
    table = root / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    table.write_text(table.read_text() + added)
    corpus = load("iemocap", root)
    assert len(corpus) == 300
    assert corpus.left_out == (sentence,)


def test_a_dialogue_in_the_folder_of_another_session_is_left_out(root: Path) -> None:
    labels = root / "Session2" / "dialog" / "EmoEvaluation"
    (labels / "Ses01F_impro05.txt").write_text(line("Ses01F_impro05_F000", "neu"))
    corpus = load("iemocap", root)
    assert corpus.left_out == (
        "Ses01F_impro05.txt: Ses01F_impro05_F000 is not an utterance of this dialogue, "
        "it is left out.",
    )


def test_a_tree_of_the_real_shape_is_whole(tmp_path: Path) -> None:
    assert write_tree(tmp_path, seconds=0.05) == 10_039
    assert load("iemocap", tmp_path).verify().ok
    corpus = load("iemocap", tmp_path, scheme="four")
    assert len(corpus) == 5_531
    folds = corpus.folds("speaker")
    assert [len(fold.test.speakers) for fold in folds] == [1] * 10
    assert sum(len(fold.test) for fold in folds) == 5_531
