from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.corpora import Corpus, Fold
from servax.corpora.folds import heard
from servax.errors import AudioError, CorpusError, LeakError, SettingError

Build = Callable[..., Corpus]
ROWS = [(f"s{i}", label) for i in range(1, 7) for label in ("angry", "sad")]


def names(corpus: Corpus) -> list[str]:
    return list(corpus.utterances["utterance"])


def test_grouped_folds(build: Build) -> None:
    folds = build(ROWS).folds(3)
    assert [fold.index for fold in folds] == [0, 1, 2]
    first = folds[0]
    assert (first.test.speakers, first.validation.speakers) == (("s1", "s2"), ("s3", "s4"))
    assert first.train.speakers == ("s5", "s6")
    assert names(first.test) == ["u000", "u001", "u002", "u003"]
    assert isinstance(first.train, Corpus)
    assert first.train.labels == ("angry", "sad")


def test_session_partners_validate(build: Build) -> None:
    session = {f"s{i}": str((i - 1) // 2) for i in range(1, 7)}
    folds = build(ROWS, session=session).folds("speaker")
    assert [(f.test.speakers[0], f.validation.speakers[0]) for f in folds] == [
        ("s1", "s2"),
        ("s2", "s1"),
        ("s3", "s4"),
        ("s4", "s3"),
        ("s5", "s6"),
        ("s6", "s5"),
    ]
    assert all(len(fold.train.speakers) == 4 for fold in folds)


def test_hash_by_hand(build: Build) -> None:
    fold = build(ROWS).folds(3)[2]
    canonical = (
        '[["train", ["u004", "u005", "u006", "u007"]], '
        '["validation", ["u000", "u001", "u002", "u003"]], '
        '["test", ["u008", "u009", "u010", "u011"]]]'
    )
    assert fold.hash == hashlib.sha256(canonical.encode()).hexdigest()


def test_hash_ignores_the_order_of_rows_and_knows_the_parts(build: Build) -> None:
    corpus = build(ROWS)
    turned = replace(corpus, utterances=corpus.utterances.iloc[::-1])
    assert [f.hash for f in corpus.folds(3)] == [f.hash for f in turned.folds(3)]
    fold = corpus.folds(3)[0]
    swapped = Fold(0, train=fold.train, validation=fold.test, test=fold.validation)
    assert swapped.hash != fold.hash
    assert len({f.hash for f in corpus.folds(3)}) == 3


def test_a_saved_fold_names_its_utterances(build: Build, tmp_path: Path) -> None:
    fold = build(ROWS).folds(3)[1]
    path = tmp_path / "folds" / "1.json"
    fold.save(path)
    parts = {part: names(getattr(fold, part)) for part in ("train", "validation", "test")}
    told = {"format": "servax fold 1", "corpus": "made", "scheme": "native", "index": 1}
    assert json.loads(path.read_text()) == {**told, "hash": fold.hash, **parts}
    assert [file.name for file in path.parent.iterdir()] == ["1.json"]


def test_a_fold_that_cannot_be_written(build: Build, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"fold\.json: cannot be written \(.+\)\.$"):
        build(ROWS).folds(3)[0].save(tmp_path / "file" / "fold.json")


def test_refuses_a_speaker_in_two_parts(build: Build) -> None:
    corpus = build(ROWS)
    first, rest = corpus.subset(np.arange(12) % 2 == 0), corpus.subset(np.arange(12) % 2 == 1)
    sentence = "speaker s1 stands in train and in validation: give each speaker to one part only."
    with pytest.raises(LeakError, match=f"^{re.escape(sentence)}$"):
        Fold(0, train=first, validation=rest, test=rest)


def test_refuses_a_recording_in_two_parts(build: Build) -> None:
    corpus = build(ROWS)
    shutil.copy(corpus.paths[0], corpus.paths[11])
    sentence = (
        "u011 (train) and u000 (test) are the same recording: "
        "remove one of them or give both to one part."
    )
    with pytest.raises(LeakError, match=f"^{re.escape(sentence)}$"):
        corpus.folds(3)


def test_a_copy_in_another_container_is_the_same_recording(build: Build) -> None:
    corpus = build(ROWS)
    flac = corpus.root / "copy.flac"
    audio.write(flac, audio.read(corpus.paths[0], sample_rate=8_000), 8_000)
    table = corpus.utterances.copy()
    table.loc[11, "path"] = "copy.flac"
    with pytest.raises(LeakError, match=r"^u011 \(train\) and u000 \(test\) are the same"):
        replace(corpus, utterances=table).folds(3)


def test_a_pair_within_one_part_is_fine(build: Build) -> None:
    corpus = build(ROWS)
    shutil.copy(corpus.paths[0], corpus.paths[1])
    assert len(corpus.folds(3)) == 3


def test_refuses_overlapping_stretches_of_one_file(build: Build) -> None:
    corpus = build(ROWS)
    table = corpus.utterances.copy()
    table.loc[[0, 11], "path"] = "000.wav"
    table.loc[0, ["start", "end"]] = [0.0, 0.03]
    table.loc[11, "start"] = 0.02
    sentence = (
        f"u000 (test) and u011 (train) overlap in {corpus.root / '000.wav'}: give both to one part."
    )
    with pytest.raises(LeakError, match=f"^{re.escape(sentence)}$"):
        replace(corpus, utterances=table).folds(3)
    elsewhere = table.assign(path=table["path"].mask(table.index == 11, "../made/000.wav"))
    with pytest.raises(LeakError, match=r"^u000 \(test\) and u011 \(train\) overlap in "):
        replace(corpus, utterances=elsewhere).folds(3)
    table.loc[11, "start"] = 0.03
    assert len(replace(corpus, utterances=table).folds(3)) == 3


def test_an_unreadable_recording_stops_the_folds(build: Build) -> None:
    corpus = build(ROWS)
    corpus.paths[5].write_bytes(b"")
    with pytest.raises(AudioError, match=r"005\.wav: is empty \(0 bytes\)\.$"):
        corpus.folds(3)


def test_recordings_are_decoded_once_until_they_change(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = build(ROWS)
    corpus.folds(3)
    calls: list[Path] = []
    inspect = audio.inspect

    def counted(path: Path, *, start: float, end: float) -> audio.Sound:
        calls.append(path)
        return inspect(path, start=start, end=end)

    monkeypatch.setattr(audio, "inspect", counted)
    corpus.folds(6)
    assert calls == []
    audio.write(corpus.paths[3], np.full(500, 0.25), 8_000)
    assert heard(corpus.paths[3], 0.0, float("nan")).seconds == 500 / 8_000
    assert calls == [corpus.paths[3]]


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            "session",
            "groups is 'session', expected one of 'speaker', 'text', 'official' or a whole number.",
        ),
        (7, "groups is 7, expected 'speaker' or a whole number from 3 to 6 (the speakers)."),
    ],
)
def test_refuses_groups(build: Build, groups: int, sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        build(ROWS).folds(groups)
