from __future__ import annotations

import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from servax import audio
from servax.errors import AudioError, CacheError
from servax.features import FrontEnd, FrontEndSettings, cache_key, extract

SETTINGS = FrontEndSettings(frames=20)


class Counter:
    """Counts the utterances that were computed."""

    def __init__(self):
        self.calls = []

    def __call__(self, done, total):
        self.calls.append((done, total))


@pytest.fixture
def corpus(make_corpus):
    return make_corpus(4)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache" / "features"


@pytest.fixture
def open_cache(corpus, folder):
    """Open the cache and return what it holds and how many utterances were computed."""

    def open_it(settings=SETTINGS, of=None):
        counter = Counter()
        features = extract(of or corpus, FrontEnd(settings), folder=folder, progress=counter)
        return features, len(counter.calls)

    return open_it


def entry_of(corpus, folder):
    return folder / cache_key(corpus, FrontEnd(SETTINGS))


def test_rows_are_the_front_end_of_each_file(corpus, open_cache):
    features, computed = open_cache()
    assert computed == 4
    assert features.logmel_db.shape == (4, 64, 20)
    assert features.utterances == tuple(corpus.utterances["utterance"])
    front_end = FrontEnd(SETTINGS)
    for row, path in enumerate(corpus.paths):
        expected = front_end(torch.from_numpy(audio.read(path)).unsqueeze(0))[0, 0]
        assert np.array_equal(features.logmel_db[row], expected.numpy())


def test_features_are_mapped_and_cannot_be_written(open_cache):
    features, _ = open_cache()
    assert isinstance(features.logmel_db, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        features.logmel_db[0, 0, 0] = 1.0


def test_progress_counts_to_the_total(corpus, folder):
    counter = Counter()
    extract(corpus, FrontEnd(SETTINGS), folder=folder, progress=counter)
    assert counter.calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_second_time_nothing_is_computed(open_cache, folder):
    first, _ = open_cache()
    again, computed = open_cache()
    assert computed == 0
    assert np.array_equal(first.logmel_db, again.logmel_db)
    assert len(list(folder.iterdir())) == 1  # no temporary folder is left


def test_only_the_asked_stretch_of_a_file_is_read(corpus, open_cache):
    table = corpus.utterances.copy()
    table.loc[0, ["start", "end"]] = [0.05, 0.15]
    features, _ = open_cache(of=replace(corpus, utterances=table))
    sound = audio.read(corpus.paths[0])[800:2_400]
    expected = FrontEnd(SETTINGS)(torch.from_numpy(sound.copy()).unsqueeze(0))[0, 0]
    assert np.array_equal(features.logmel_db[0], expected.numpy())


@pytest.mark.parametrize(
    "settings",
    [
        FrontEndSettings(frames=21),
        FrontEndSettings(frames=20, level_dbfs=None),
        FrontEndSettings(frames=20, logmel=replace(SETTINGS.logmel, window="hamming")),
    ],
)
def test_other_settings_have_an_entry_of_their_own(open_cache, folder, settings):
    open_cache()
    features, computed = open_cache(settings)
    assert computed == 4
    assert features.logmel_db.shape[2] == settings.frames
    assert len(list(folder.iterdir())) == 2


def altered(corpus, what):
    """Change one thing that the features depend on and return the corpus to read."""
    table = corpus.utterances.copy()
    if what == "sound":
        audio.write(corpus.paths[1], np.full(3_000, 0.1), 16_000)
    elif what == "time of change":
        os.utime(corpus.paths[1], ns=(1, 1))
    elif what == "cut":
        table.loc[1, "end"] = 0.1
    elif what == "name":
        table.loc[1, "utterance"] = "another"
    elif what == "order":
        table = table.iloc[::-1].reset_index(drop=True)
    return replace(corpus, utterances=table)


@pytest.mark.parametrize("what", ["sound", "time of change", "cut", "name", "order"])
def test_whatever_the_features_depend_on_changes_the_key(corpus, open_cache, what):
    open_cache()
    before = cache_key(corpus, FrontEnd(SETTINGS))
    other = altered(corpus, what)
    assert cache_key(other, FrontEnd(SETTINGS)) != before
    assert open_cache(of=other)[1] == 4


def test_labels_and_speakers_do_not_change_the_key(corpus):
    table = corpus.utterances.assign(label="sad", speaker="somebody")
    other = replace(corpus, utterances=table, name="renamed")
    assert cache_key(other, FrontEnd(SETTINGS)) == cache_key(corpus, FrontEnd(SETTINGS))


def flip_a_byte(entry):
    content = bytearray((entry / "logmel.npy").read_bytes())
    content[-9] ^= 1
    (entry / "logmel.npy").write_bytes(content)


def cut_the_array(entry):
    os.truncate(entry / "logmel.npy", 2_000)


def edit(**changes):
    """Return a way to break an entry: change or, with None, remove keys of its description."""

    def change(entry):
        description = json.loads((entry / "entry.json").read_text())
        kept = {k: v for k, v in {**description, **changes}.items() if v is not None}
        (entry / "entry.json").write_text(json.dumps(kept))

    return change


def describe_as(text):
    def write(entry):
        (entry / "entry.json").write_bytes(text)

    return write


def put_a_file_in_its_place(entry):
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    entry.write_text("not a folder")


BREAKS = {
    "a flipped byte": flip_a_byte,
    "a cut array": cut_the_array,
    "an empty array": lambda entry: (entry / "logmel.npy").write_bytes(b""),
    "no array": lambda entry: (entry / "logmel.npy").unlink(),
    "no description": lambda entry: (entry / "entry.json").unlink(),
    "garbage": describe_as(b"\xff\x00garbage"),
    "half a description": describe_as(b'{"digest": "ab'),
    "a list": describe_as(b"[1, 2]"),
    "null": describe_as(b"null"),
    "endless nesting": describe_as(b"[" * 100_000),
    "no digest": edit(digest=None),
    "no shape": edit(shape=None),
    "a wrong shape": edit(shape=[4, 64, 21]),
    "a shape that is no list": edit(shape=4),
    "other utterances": edit(utterances=["a", "b", "c", "d"]),
    "utterances that are no list": edit(utterances=4),
    "a file instead of a folder": put_a_file_in_its_place,
}


@pytest.mark.parametrize("damage", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_entry_is_rebuilt(corpus, folder, open_cache, damage):
    good = np.array(open_cache()[0].logmel_db)
    damage(entry_of(corpus, folder))
    rebuilt, computed = open_cache()
    assert computed == 4
    assert np.array_equal(rebuilt.logmel_db, good)
    assert open_cache()[1] == 0
    assert len(list(folder.iterdir())) == 1


def test_what_a_killed_process_left_does_not_matter(corpus, folder, open_cache):
    name = entry_of(corpus, folder).name
    half = folder / f"{name[:12]}-dead" / "new"
    half.mkdir(parents=True)
    (half / "logmel.npy").write_bytes(b"half")
    assert open_cache()[1] == 4
    assert open_cache()[1] == 0


def test_an_entry_built_meanwhile_by_another_process_is_kept(corpus, folder):
    entry = entry_of(corpus, folder)

    def build_too(done, total):
        if done == total:
            extract(corpus, FrontEnd(SETTINGS), folder=folder)
            built.append((entry / "entry.json").stat().st_ino)

    built = []
    extract(corpus, FrontEnd(SETTINGS), folder=folder, progress=build_too)
    assert built == [(entry / "entry.json").stat().st_ino]
    assert list(folder.iterdir()) == [entry]


def test_a_folder_that_cannot_be_made_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    sentence = f"{folder}: the feature cache cannot be written (Not a directory)."
    with pytest.raises(CacheError, match=f"^{re.escape(sentence)}$"):
        extract(corpus, FrontEnd(SETTINGS), folder=folder)


def test_a_full_disk_is_refused_and_nothing_is_left(corpus, folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the array needs 20 608
    try:
        sentence = f"{folder}: the feature cache cannot be written (File too large); free "
        with pytest.raises(CacheError, match=f"^{re.escape(sentence)}"):
            extract(corpus, FrontEnd(SETTINGS), folder=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []


def test_a_missing_recording_is_refused(corpus, folder):
    corpus.paths[2].unlink()
    sentence = f"{corpus.paths[2]}: cannot be read (No such file or directory)."
    with pytest.raises(CacheError, match=f"^{re.escape(sentence)}$"):
        extract(corpus, FrontEnd(SETTINGS), folder=folder)


def test_a_broken_recording_is_refused_and_nothing_is_left(corpus, folder):
    corpus.paths[2].write_bytes(b"no sound at all")
    with pytest.raises(AudioError, match=f"^{re.escape(str(corpus.paths[2]))}: "):
        extract(corpus, FrontEnd(SETTINGS), folder=folder)
    assert list(folder.iterdir()) == []
