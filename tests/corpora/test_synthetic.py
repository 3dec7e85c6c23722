from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from servax import audio
from servax.corpora import Corpus, fetch, load, synthetic
from servax.corpora.synthetic import speak
from servax.errors import CorpusError, SettingError

SMALL = ("m1", "f1", "m2")


def digest(folder: Path) -> str:
    files = sorted(folder.iterdir())
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "VOICES", SMALL)
        patch.setattr(synthetic, "SENTENCES", synthetic.SENTENCES[:2])
        return load("synthetic", tmp_path_factory.mktemp("spoken"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sentences by one voice, so that speaking takes a moment."""
    monkeypatch.setattr(synthetic, "VOICES", SMALL[:1])
    monkeypatch.setattr(synthetic, "SENTENCES", synthetic.SENTENCES[:2])


def test_the_whole_corpus_is_large_enough() -> None:
    assert len(set(synthetic.VOICES)) >= 10
    assert len(set(synthetic.SENTENCES)) >= 10
    assert list(synthetic.PROSODY) == ["angry", "happy", "neutral", "sad"]
    assert sum(synthetic.DESCRIPTION.counts.values()) == 13 * 4 * 10


def test_it_is_a_corpus(corpus: Corpus) -> None:
    assert corpus.name == "synthetic"
    assert corpus.labels == ("angry", "happy", "neutral", "sad")
    assert corpus.speakers == ("01m1", "02f1", "03m2")
    assert Counter(corpus.utterances["label"]) == dict.fromkeys(corpus.labels, 6)
    genders = dict(zip(corpus.utterances["speaker"], corpus.utterances["gender"], strict=True))
    assert genders == {"01m1": "male", "02f1": "female", "03m2": "male"}
    assert set(corpus.utterances["text"]) == {"0", "1"}
    assert len(corpus.folds(3)) == 3


def test_it_says_that_it_is_no_recording() -> None:
    assert "not recordings, not emotions" in synthetic.DESCRIPTION.title


def test_it_sounds(corpus: Corpus) -> None:
    for path in corpus.paths:
        sound = audio.inspect(path)
        assert (sound.sample_rate, sound.channels) == (16_000, 1)
        assert 0.7 < sound.seconds < 5
        assert 10 ** (-30 / 20) < sound.peak <= 10 ** (-0.9 / 20)


def test_labels_are_heard_on_average(corpus: Corpus) -> None:
    rates = {label: [] for label in corpus.labels}
    for label, path in zip(corpus.utterances["label"], corpus.paths, strict=True):
        rates[label].append(audio.duration_seconds(path))
    assert np.mean(rates["angry"]) < np.mean(rates["neutral"]) < np.mean(rates["sad"])


def test_prosody_overlaps() -> None:
    """Two neighbouring labels are closer than three deviations in each dimension."""
    angry, happy = synthetic.PROSODY["angry"], synthetic.PROSODY["happy"]
    for name in ("rate", "pitch_range", "level_db"):
        (one, spread), (other, _) = getattr(angry, name), getattr(happy, name)
        assert abs(one - other) < 3 * spread


@pytest.mark.usefixtures("small")
def test_a_second_time_nothing_is_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = synthetic.generate(tmp_path)

    def silent(*_: object) -> None:
        raise AssertionError("spoke again")

    monkeypatch.setattr(synthetic, "speak", silent)
    assert synthetic.generate(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    ticks: list[tuple[int, int]] = []
    one = synthetic.generate(tmp_path / "1", progress=lambda done, all_: ticks.append((done, all_)))
    two = synthetic.generate(tmp_path / "2")
    assert digest(one) == digest(two)
    assert one.name == two.name
    assert ticks == [(1, 1)]
    other = synthetic.generate(tmp_path / "1", seed=1)
    assert digest(other) != digest(one)
    assert other.name != one.name


@pytest.mark.usefixtures("small")
def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from servax.corpora import synthetic\n"
        "synthetic.VOICES = synthetic.VOICES[:1]\n"
        "synthetic.SENTENCES = synthetic.SENTENCES[:2]\n"
        "print(synthetic.generate(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "there")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    here = synthetic.generate(tmp_path / "here")
    assert digest(Path(done.stdout.strip())) == digest(here)


def test_a_sentence_sounds_alike_in_the_same_list_only() -> None:
    line = {"text": "Hello there.", "rate": 170, "pitch": 50, "pitch_range": 50}
    (first, rate), (second, _) = speak("en+m1", [line, line])
    (again, _), _ = speak("en+m1", [line, line])
    assert rate == 22_050
    np.testing.assert_array_equal(first, again)
    # Why each voice needs a process of its own: espeak-ng remembers what it said before.
    assert first.shape != second.shape or not np.array_equal(first, second)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_refuses_a_seed(tmp_path: Path, seed: int) -> None:
    sentence = f"seed is {seed!r}, expected a whole number >= 0."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        load("synthetic", tmp_path, seed=seed)


@pytest.mark.parametrize(
    ("voice", "reason"),
    [
        ("xx-none", "RuntimeError: espeak-ng refuses voice xx-none (status "),
        ("en+nobody", "RuntimeError: espeak-ng has no voice variant nobody)"),
    ],
)
def test_names_what_espeak_refuses(voice: str, reason: str) -> None:
    line = {"text": "a", "rate": 170, "pitch": 50, "pitch_range": 50}
    sentence = f"espeak-ng could not speak as {voice} ({reason}"
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}"):
        speak(voice, [line])


@pytest.mark.usefixtures("small")
def test_fetching_it_is_speaking_it(tmp_path: Path) -> None:
    assert fetch("synthetic", tmp_path) == synthetic.generate(tmp_path)


@pytest.mark.usefixtures("small")
def test_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CorpusError, match=r"file/x: cannot hold the synthetic corpus \(Not a directory\): pass a"
    ):
        synthetic.generate(tmp_path / "file" / "x")


@pytest.mark.usefixtures("small")
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CorpusError("espeak-ng could not speak.")

    monkeypatch.setattr(synthetic, "speak", fail)
    with pytest.raises(CorpusError, match=r"^espeak-ng could not speak\.$"):
        synthetic.generate(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("content", ["", "utterance\nx\n", '"'])
def test_refuses_a_damaged_table(tmp_path: Path, content: str) -> None:
    folder = synthetic.generate(tmp_path)
    (folder / synthetic.TABLE).write_text(content)
    with pytest.raises(CorpusError, match=f"^{re.escape(str(folder))}: "):
        load("synthetic", tmp_path)


@pytest.mark.usefixtures("small")
def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = synthetic.generate(tmp_path / "ready")
    target = tmp_path / "slow" / ready.name

    def overtaken(work: Path, *_: object) -> None:
        ready.rename(target)
        (work / "mine").touch()

    monkeypatch.setattr(synthetic, "_speak_all", overtaken)
    assert synthetic.generate(tmp_path / "slow") == target
    assert (target / synthetic.TABLE).is_file()
    assert [path.name for path in (tmp_path / "slow").iterdir()] == [target.name]
