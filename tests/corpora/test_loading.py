from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from servax.corpora import EMOTIONS, FOUR, NAMES, cache_folder, data_folder, describe, load
from servax.errors import CorpusError, SettingError


def refusal(sentence: str) -> str:
    return f"^{re.escape(sentence)}$"


def test_every_name_is_that_of_its_description() -> None:
    assert list(NAMES) == ["ravdess", "emodb", "iemocap", "cremad", "nemo", "fsdd", "synthetic"]
    assert all(describe(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", list(NAMES))
def test_descriptions_hold_together(name: str) -> None:
    told = describe(name)
    assert told.labels == tuple(sorted(told.counts))
    if "four" in told.schemes:
        assert set(told.counts) <= set(EMOTIONS)
        assert {FOUR[e] for e in told.counts if e in FOUR} == {"angry", "happy", "neutral", "sad"}
    assert told.download is not None or told.by_hand


@pytest.mark.parametrize(
    ("name", "utterances", "speakers"),
    [
        ("ravdess", 1440, 24),
        ("emodb", 535, 10),
        ("iemocap", 7532, 10),
        ("cremad", 7441, 91),
        ("nemo", 4481, 9),
        ("fsdd", 3000, 6),
        ("synthetic", 520, 13),
    ],
)
def test_published_sizes(name: str, utterances: int, speakers: int) -> None:
    assert sum(describe(name).counts.values()) == utterances
    assert len(set(describe(name).speakers)) == speakers


@pytest.mark.parametrize("name", ["ravdess", "emodb", "iemocap", "cremad", "nemo"])
def test_the_page_of_a_corpus_tells_the_same_counts(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "corpora" / f"{name}.md"
    rows = re.findall(
        r"^\| (\w+) \| (\d+)[^|]*\| (left out|\w+) \|$", page.read_text(), re.MULTILINE
    )
    told = describe(name)
    assert {label: int(count) for label, count, _ in rows} == dict(told.counts)
    assert {label: four for label, _, four in rows if four != "left out"} == {
        label: FOUR[label] for label in told.counts if label in FOUR
    }


def tree(root: Path, actors: int = 3) -> Path:
    """Write empty files named as RAVDESS names 2 takes of 3 emotions."""
    for actor in range(1, actors + 1):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir(parents=True)
        for emotion in ("02", "03", "05"):
            for take in ("01", "02"):
                (folder / f"03-01-{emotion}-01-01-{take}-{actor:02d}.wav").touch()
    return root


def test_scheme_four_leaves_calm_out(tmp_path: Path) -> None:
    corpus = load("ravdess", tree(tmp_path), scheme="four")
    assert corpus.labels == ("angry", "happy", "neutral", "sad")
    assert Counter(corpus.utterances["label"]) == {"happy": 6, "angry": 6}
    assert corpus.emotions == ("angry", "happy", "neutral", "sad")


def test_limit_spreads_over_speakers_and_labels(tmp_path: Path) -> None:
    root = tree(tmp_path)
    nine = load("ravdess", root, limit=9)
    pairs = Counter(zip(nine.utterances["speaker"], nine.utterances["label"], strict=True))
    assert set(pairs.values()) == {1}
    assert len(pairs) == 9
    whole = load("ravdess", root)
    twelve = load("ravdess", root, limit=12)
    positions = whole.utterances["utterance"].isin(twelve.utterances["utterance"])
    assert list(whole.utterances["utterance"][positions]) == list(twelve.utterances["utterance"])
    assert len(load("ravdess", root, limit=100)) == 18


def test_root_defaults_to_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAX_DATA", str(tmp_path))
    tree(tmp_path / "ravdess")
    assert load("ravdess").root == tmp_path / "ravdess"
    assert data_folder() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="folders of this system differ")
def test_data_lies_in_the_cache_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVAX_DATA", "SERVAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert data_folder() == Path("/home/somebody/.cache/servax/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/servax")
    monkeypatch.setenv("SERVAX_CACHE", "/elsewhere")
    assert data_folder() == Path("/elsewhere/data")


def test_refuses_an_unknown_name() -> None:
    sentence = (
        "corpus is 'ravdes', expected one of cremad, emodb, fsdd, iemocap, nemo, ravdess, "
        "synthetic. Did you mean 'ravdess'?"
    )
    with pytest.raises(SettingError, match=refusal(sentence)):
        load("ravdes")


def test_refuses_an_unknown_scheme() -> None:
    sentence = (
        "scheme is 'fours', expected one of four, gender, native, speaker. Did you mean 'four'?"
    )
    with pytest.raises(SettingError, match=refusal(sentence)):
        load("ravdess", scheme="fours")


@pytest.mark.parametrize("limit", [0, -1, True])
def test_refuses_a_limit(limit: int) -> None:
    sentence = f"limit is {limit!r}, expected None or a whole number >= 1."
    with pytest.raises(SettingError, match=refusal(sentence)):
        load("ravdess", limit=limit)


def test_digits_have_no_four_emotions(tmp_path: Path) -> None:
    sentence = (
        "fsdd cannot serve scheme 'four': its labels are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. "
        "Use scheme 'native' or 'speaker'."
    )
    with pytest.raises(CorpusError, match=refusal(sentence)):
        load("fsdd", tmp_path, scheme="four")


def test_says_where_it_looked_and_how_to_fetch(tmp_path: Path) -> None:
    folder = tmp_path / "absent"
    sentence = (
        f"ravdess was looked for in {folder}, which is not a folder. "
        "Run 'servax corpus fetch ravdess', or pass the folder that holds it as root."
    )
    with pytest.raises(CorpusError, match=refusal(sentence)):
        load("ravdess", folder)


def test_says_how_to_get_what_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAX_DATA", str(tmp_path))
    sentence = (
        f"iemocap was looked for in {tmp_path / 'iemocap'}, which is not a folder. It must be "
        "fetched by hand: ask for it at https://sail.usc.edu/iemocap/ and unpack the folders "
        "Session1 to 5, or pass the folder that holds it as root."
    )
    with pytest.raises(CorpusError, match=refusal(sentence)):
        load("iemocap")


def test_refuses_a_folder_without_utterances(tmp_path: Path) -> None:
    sentence = (
        f"{tmp_path}: holds no utterance of ravdess. "
        "Run 'servax corpus fetch ravdess', or pass the folder that holds it as root."
    )
    with pytest.raises(CorpusError, match=refusal(sentence)):
        load("ravdess", tmp_path)
