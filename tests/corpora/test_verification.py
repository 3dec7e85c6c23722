from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.corpora import Corpus, describe, load

Build = Callable[..., Corpus]
Speak = Callable[[Path], Path]


@pytest.fixture
def ravdess(tmp_path: Path, speak: Speak) -> Path:
    """Write all 1440 names of RAVDESS for two actors: 120 files."""
    for actor in ("07", "08"):
        for emotion in range(1, 9):
            for intensity in (1, 2):
                for statement in (1, 2):
                    for take in (1, 2):
                        if emotion == 1 and intensity == 2:
                            continue
                        name = f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{take:02d}"
                        speak(tmp_path / f"Actor_{actor}" / f"{name}-{actor}.wav")
    return tmp_path


@pytest.fixture
def two_actors(ravdess: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the description speak of these two actors only."""
    told = describe("ravdess")
    small = replace(
        told, counts={e: n // 12 for e, n in told.counts.items()}, speakers=("07", "08")
    )
    monkeypatch.setitem(__import__("servax.corpora", fromlist=["NAMES"]).NAMES, "ravdess", small)
    return ravdess


def test_a_sound_corpus_is_ok(two_actors: Path) -> None:
    ticks: list[tuple[int, int]] = []
    found = load("ravdess", two_actors).verify(
        progress=lambda done, all_: ticks.append((done, all_))
    )
    assert found.problems == ()
    assert found.ok
    assert (found.name, found.utterances, found.speakers) == ("ravdess", 120, 2)
    assert found.counts["neutral"] == 8
    assert found.counts["angry"] == 16
    assert found.seconds == pytest.approx(120 * 0.05)
    assert ticks == [(i, 120) for i in range(1, 121)]


def test_a_published_duplicate_is_a_known_defect(two_actors: Path) -> None:
    folder = two_actors / "Actor_07"
    shutil.copy(folder / "03-01-03-01-02-01-07.wav", folder / "03-01-03-01-02-02-07.wav")
    found = load("ravdess", two_actors).verify()
    assert found.ok
    assert found.known_defects == (
        "03-01-03-01-02-01-07 and 03-01-03-01-02-02-07 are the same recording.",
    )


def test_every_problem_gets_its_sentence(two_actors: Path) -> None:
    folder = two_actors / "Actor_08"
    shutil.copy(folder / "03-01-05-01-01-01-08.wav", folder / "03-01-05-01-01-02-08.wav")
    (folder / "03-01-04-01-01-01-08.wav").unlink()
    (folder / "03-01-06-01-01-01-08.wav").write_bytes(b"")
    audio.write(folder / "03-01-07-01-01-01-08.wav", np.zeros(400), 8_000)
    (folder / "notes.wav").touch()
    found = load("ravdess", two_actors).verify()
    assert not found.ok
    assert found.problems == (
        "Actor_08/notes.wav does not follow MM-VV-EE-II-SS-RR-AA.wav, it is left out.",
        "sad has 15 utterances, the corpus has 16.",
        f"{folder / '03-01-06-01-01-01-08.wav'}: is empty (0 bytes).",
        "03-01-05-01-01-01-08 and 03-01-05-01-01-02-08 are the same recording.",
        "03-01-07-01-01-01-08 is silent from end to end.",
    )
    assert found.known_defects == ()


def test_a_part_of_a_corpus_is_told_by_its_missing_speakers(ravdess: Path) -> None:
    found = load("ravdess", ravdess, scheme="four").verify()
    assert found.problems[0].startswith("22 of 24 speakers are missing: 01, 02, 03,")
    assert found.problems[1:] == (
        "angry has 16 utterances, the corpus has 192.",
        "happy has 16 utterances, the corpus has 192.",
        "neutral has 8 utterances, the corpus has 96.",
        "sad has 16 utterances, the corpus has 192.",
    )


def test_counts_of_a_selection_are_not_compared(ravdess: Path) -> None:
    corpus = load("ravdess", ravdess)
    assert corpus.subset(speakers=["07"]).verify().ok
    assert load("ravdess", ravdess, limit=10).verify().ok


def test_a_corpus_without_description_is_listened_to(build: Build) -> None:
    corpus = build([("a", "x"), ("b", "y")])
    shutil.copy(corpus.paths[0], corpus.paths[1])
    assert corpus.verify().problems == ("u000 and u001 are the same recording.",)
