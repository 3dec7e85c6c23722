"""Corpora whose labels stand in file names, on trees of empty files and on real recordings."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servax.corpora import load
from servax.errors import CorpusError

Real = Callable[[str], Path]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("name", "file", "emotion", "speaker", "gender", "text"),
    [
        ("ravdess", "Actor_01/03-01-01-01-01-01-01.wav", "neutral", "01", "male", "01"),
        ("ravdess", "Actor_02/03-01-02-02-02-02-02.wav", "calm", "02", "female", "02"),
        ("ravdess", "Actor_03/03-01-03-01-02-01-03.wav", "happy", "03", "male", "02"),
        ("ravdess", "Actor_10/03-01-04-01-01-02-10.wav", "sad", "10", "female", "01"),
        ("ravdess", "Actor_11/03-01-05-02-01-01-11.wav", "angry", "11", "male", "01"),
        ("ravdess", "Actor_19/03-01-06-01-01-01-19.wav", "fearful", "19", "male", "01"),
        ("ravdess", "Actor_20/03-01-07-01-01-01-20.wav", "disgusted", "20", "female", "01"),
        ("ravdess", "speech/Actor_24/03-01-08-01-01-01-24.wav", "surprised", "24", "female", "01"),
        ("emodb", "wav/03a01Wa.wav", "angry", "03", "male", "a01"),
        ("emodb", "wav/08b10Lb.wav", "bored", "08", "female", "b10"),
        ("emodb", "wav/09a02Ec.wav", "disgusted", "09", "female", "a02"),
        ("emodb", "wav/10b02Aa.wav", "fearful", "10", "male", "b02"),
        ("emodb", "wav/11a05Fc.wav", "happy", "11", "male", "a05"),
        ("emodb", "16b03Ta.wav", "sad", "16", "female", "b03"),
        ("emodb", "15a07Na.wav", "neutral", "15", "male", "a07"),
        ("cremad", "AudioWAV/1001_DFA_ANG_XX.wav", "angry", "1001", "", "DFA"),
        ("cremad", "AudioWAV/1091_IEO_DIS_HI.wav", "disgusted", "1091", "", "IEO"),
        ("cremad", "1040_ITH_SAD_X.wav", "sad", "1040", "", "ITH"),
        ("nemo", "samples/EB0_anger_1.wav", "angry", "EB0", "female", "1"),
        ("nemo", "samples/WR0_surprised_90.wav", "surprised", "WR0", "male", "90"),
        ("fsdd", "recordings/7_jackson_32.wav", "7", "jackson", "male", "7"),
    ],
)
def test_a_name_is_read(
    tmp_path: Path, name: str, file: str, emotion: str, speaker: str, gender: str, text: str
) -> None:
    corpus = load(name, touch(tmp_path, file))
    (row,) = corpus.utterances.to_dict("records")
    assert row["path"] == file
    assert row["utterance"] == Path(file).stem
    assert (row["emotion"], row["label"]) == (emotion, emotion)
    assert (row["speaker"], row["gender"], row["text"]) == (speaker, gender, text)
    assert (row["session"], row["start"]) == ("", 0.0)
    assert np.isnan(row["end"])
    assert corpus.left_out == ()


@pytest.mark.parametrize(
    ("name", "good", "bad", "grammar"),
    [
        (
            "ravdess",
            "Actor_01/03-01-01-01-01-01-01.wav",
            "Actor_01/03-01-09-01-01-01-01.wav",
            "MM-VV-EE-II-SS-RR-AA.wav",
        ),
        ("emodb", "wav/03a01Wa.wav", "wav/07a01Wa.wav", "SSTTTEv.wav"),
        (
            "cremad",
            "AudioWAV/1001_DFA_ANG_XX.wav",
            "AudioWAV/1001_DFA_SUR_XX.wav",
            "AAAA_SSS_EEE_LL.wav",
        ),
        (
            "nemo",
            "samples/EB0_anger_1.wav",
            "samples/XY0_anger_1.wav",
            "speaker_emotion_sentence.wav",
        ),
        (
            "fsdd",
            "recordings/7_jackson_32.wav",
            "recordings/7_jackson_50.wav",
            "digit_speaker_index.wav",
        ),
    ],
)
def test_a_strange_name_is_left_out_and_reported(
    tmp_path: Path, name: str, good: str, bad: str, grammar: str
) -> None:
    hidden = str(Path(good).with_name("._" + Path(good).name))
    corpus = load(name, touch(tmp_path, good, bad, hidden))
    assert list(corpus.utterances["path"]) == [good]
    assert corpus.left_out == (f"{bad} does not follow {grammar}, it is left out.",)


def test_a_name_that_is_not_utf8_is_left_out_and_reported(tmp_path: Path) -> None:
    good = "wav/03a01Fa.wav"
    bad = os.fsdecode(b"wav/03a01F\xe9.wav")
    corpus = load("emodb", touch(tmp_path, good, bad))
    assert list(corpus.utterances["path"]) == [good]
    expected = r"wav/03a01F\udce9.wav has a name that is not UTF-8, it is left out."
    assert corpus.left_out == (expected,)


def test_ravdess_songs_are_passed_over(tmp_path: Path) -> None:
    root = touch(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "Actor_01/03-02-01-01-01-01-01.wav")
    corpus = load("ravdess", root)
    assert len(corpus) == 1
    assert corpus.left_out == ()


def test_cremad_leaves_out_the_clip_without_sound_and_reads_the_sexes(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        "AudioWAV/1001_DFA_ANG_XX.wav",
        "AudioWAV/1076_MTI_SAD_XX.wav",
        "AudioWAV/1076_MTI_NEU_XX.wav",
    )
    (root / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","",""\n1076,25,"Female","",""\n'
    )
    corpus = load("cremad", root)
    assert dict(zip(corpus.utterances["speaker"], corpus.utterances["gender"], strict=True)) == {
        "1001": "male",
        "1076": "female",
    }
    assert len(corpus) == 2


@pytest.mark.parametrize("content", [b"id,sex\n1001,Male\n", b"ActorID,Sex\n1001,?\n", b"\xff,\n1"])
def test_cremad_refuses_another_table_of_actors(tmp_path: Path, content: bytes) -> None:
    root = touch(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav")
    table = root / "VideoDemographics.csv"
    table.write_bytes(content)
    sentence = (
        f"{table}: is not the published table, expected columns ActorID and Sex (Male or Female)."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        load("cremad", root)


@pytest.mark.real_corpus
def test_ravdess_as_published(real_data: Real) -> None:
    corpus = load("ravdess", real_data("ravdess"))
    assert len(corpus) == 1440
    assert Counter(corpus.utterances["emotion"]) == {
        "neutral": 96,
        **dict.fromkeys(
            ("angry", "calm", "disgusted", "fearful", "happy", "sad", "surprised"), 192
        ),
    }
    assert set(corpus.utterances.groupby("speaker").size()) == {60}
    assert Counter(corpus.utterances["gender"]) == {"male": 720, "female": 720}
    found = corpus.verify()
    assert found.ok, found.problems
    assert found.known_defects == (
        "03-01-03-01-02-01-07 and 03-01-03-01-02-02-07 are the same recording.",
    )


@pytest.mark.real_corpus
def test_ravdess_four_classes_and_six_folds(real_data: Real) -> None:
    corpus = load("ravdess", real_data("ravdess"), scheme="four")
    assert corpus.labels == ("angry", "happy", "neutral", "sad")
    assert np.bincount(corpus.label_index).tolist() == [192, 192, 96, 192]
    folds = corpus.folds(6)
    assert [fold.test.speakers for fold in folds[:2]] == [
        ("01", "02", "03", "04"),
        ("05", "06", "07", "08"),
    ]
    assert folds[0].validation.speakers == ("05", "06", "07", "08")
    assert folds[5].validation.speakers == ("01", "02", "03", "04")
    assert {len(fold.train) for fold in folds} == {448}


@pytest.mark.real_corpus
def test_two_speakers_of_emodb(real_data: Real) -> None:
    corpus = load("emodb", real_data("emodb"))
    assert (len(corpus), corpus.speakers) == (92, ("03", "09"))
    found = corpus.verify()
    assert found.problems[0] == ("8 of 10 speakers are missing: 08, 10, 11, 12, 13, 14, 15, 16.")
    assert "happy has 11 utterances, the corpus has 71." in found.problems


@pytest.mark.real_corpus
def test_fsdd_and_its_official_split(real_data: Real) -> None:
    corpus = load("fsdd", real_data("fsdd"))
    assert corpus.labels == tuple("0123456789")
    assert np.bincount(corpus.label_index).tolist() == [300] * 10
    (fold,) = corpus.folds("official")
    test = fold.test
    assert (len(fold.train) + len(fold.validation), len(test)) == (2700, 300)
    assert {name.rsplit("_")[-1] for name in test.utterances["utterance"]} == set("01234")
    assert test.speakers == corpus.speakers
