"""A run behind a URL: the same results, found by another machine, and refusals before any work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from servax.corpora import cache_folder
from servax.errors import ServaxError
from servax.experiments import Recipe, load_recipe, run
from servax.stages import DONE, Stage, Storage, Watcher, make_stage, without_password

pytestmark = pytest.mark.usefixtures("without_figures")
MEMORY = "memory://servax/run"


class Notes(Watcher):
    """A watcher that remembers which stages were done already."""

    def __init__(self) -> None:
        self.cached: dict[str, bool] = {}

    def finish(self, stage: str, *, cached: bool) -> None:
        self.cached[stage] = cached


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    """Begin with nothing behind `MEMORY`, and no mirror of it."""
    store = fsspec.filesystem("memory").store
    store.clear()
    shutil.rmtree(cache_folder() / "runs", ignore_errors=True)
    yield
    store.clear()


@pytest.fixture
def small(recipe_file: Path) -> Recipe:
    """Return one fold, one purifier, no adversarial model."""
    recipe = load_recipe(recipe_file)
    few = replace(recipe.adversarial, objectives=())
    return replace(
        recipe, held_out=(3,), purifiers={"ssad": recipe.purifiers["ssad"]}, adversarial=few
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a run but those that bear the time in their name."""
    found = [p for p in folder.rglob("*.*") if p.is_file() and p.parent.name != "tensorboard"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def made(storage: Storage, name: str = "one", content: str = "weights") -> Stage:
    """Return a stage that is done, with a file in a folder and one that is no result."""
    stage = make_stage(storage.folder, "target", name, {"a": name})
    (stage.folder / "model").mkdir(parents=True)
    (stage.folder / "model" / "weights.bin").write_text(content, encoding="utf-8")
    (stage.folder / "half.tmp").write_text("half", encoding="utf-8")
    stage.complete({"epochs": 3}, seconds=1.5)
    return stage


def test_a_run_behind_a_url_is_the_run_in_a_folder(small: Recipe, tmp_path: Path) -> None:
    url = (tmp_path / "far").as_uri()
    here = run(small, tmp_path / "here", command="servax run small")
    there = run(small, url, command="servax run small")
    pd.testing.assert_frame_equal(here.records.frame, there.records.frame)
    assert here.records.provenance == there.records.provenance
    local, far = files(tmp_path / "here"), files(tmp_path / "far")
    assert set(local) == set(far)
    assert "report/report.html" in far
    for name in local:
        if name.endswith((".safetensors", ".npz")) or name.startswith(("records/", "logs/")):
            assert local[name] == far[name], name

    # Another machine: an empty mirror. It finds every stage done.
    shutil.rmtree(cache_folder() / "runs")
    notes = Notes()
    again = run(small, url, command="another", watcher=notes)
    assert all(notes.cached.values())
    pd.testing.assert_frame_equal(again.records.frame, here.records.frame)
    assert again.records.provenance == here.records.provenance


def test_a_result_travels_whole_and_last_comes_done() -> None:
    storage = Storage(MEMORY)
    stage = made(storage)
    storage.push(stage)
    there = sorted(fsspec.filesystem("memory").store)
    folder = f"/servax/run/stages/{stage.folder.name}"
    assert there == [f"{folder}/{DONE}", f"{folder}/model/weights.bin"]
    shutil.rmtree(storage.folder)
    storage.fetch(stage)
    assert stage.result() == {"epochs": 3}
    assert stage.seconds() == 1.5
    assert (stage.folder / "model" / "weights.bin").read_text(encoding="utf-8") == "weights"
    assert not list(stage.folder.rglob("*.tmp"))


@pytest.mark.parametrize("left", ["", '{"settings": ', '{"settings": "others", "result": {}}'])
def test_a_half_written_result_is_none(left: str) -> None:
    """Whoever was killed between two files left no result, and the next one writes it whole."""
    storage = Storage(MEMORY)
    stage = made(storage)
    store = fsspec.filesystem("memory")
    place = f"/servax/run/stages/{stage.folder.name}/{DONE}"
    store.pipe_file(place, left.encode())
    shutil.rmtree(storage.folder)
    storage.fetch(stage)
    assert stage.result() is None
    storage.push(made(storage))
    assert json.loads(store.cat_file(place))["result"] == {"epochs": 3}


def test_what_is_there_is_not_sent_again() -> None:
    storage = Storage(MEMORY)
    stage = made(storage)
    storage.push(stage)
    before = {name: item.modified for name, item in fsspec.filesystem("memory").store.items()}
    storage.push(stage)
    assert before == {n: item.modified for n, item in fsspec.filesystem("memory").store.items()}


def test_a_name_that_leads_out_of_the_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(MEMORY)
    stage = made(storage)
    storage.push(stage)
    shutil.rmtree(storage.folder)
    folder = f"/servax/run/stages/{stage.folder.name}"
    found = [f"{folder}/{DONE}", f"{folder}/../../../evil.py"]
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", lambda *_, **__: found)
    with pytest.raises(ServaxError, match=r"holds '\.\./\.\./\.\./evil\.py', which is no file of"):
        storage.fetch(stage)
    assert not list(storage.folder.rglob("*.py"))


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    stage = made(storage)
    before = files(tmp_path)
    storage.push(stage)
    storage.fetch(stage)
    storage.publish()
    assert (storage.folder, files(tmp_path)) == (tmp_path, before)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s4://bucket/run", "s4://bucket/run: unknown protocol 's4', expected a folder or a URL"),
        ("zip::file:///tmp/a", None),
        ("simplecache::file:///tmp/a", "is a chain of URLs, expected one, such as s3://"),
        ("oci://bucket/run", r"oci:// needs a package that is not installed \("),
    ],
)
def test_urls_that_cannot_be_used(url: str, sentence: str | None) -> None:
    with pytest.raises(ServaxError, match=sentence or "is a chain of URLs"):
        Storage(url)


def test_a_url_that_cannot_be_written(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    url = (tmp_path / "file" / "run").as_uri()
    with pytest.raises(ServaxError, match=rf"^{re.escape(url)}: cannot be written \("):
        run(load_recipe(recipe_file), url, command="x")


def test_a_password_is_not_shown() -> None:
    assert without_password("sftp://me:secret@host:22/run") == "sftp://me:***@host:22/run"
    assert without_password("s3://bucket/run") == "s3://bucket/run"
    with pytest.raises(ServaxError) as refused:
        Storage("s5://me:secret@host/run")
    assert "secret" not in str(refused.value)
