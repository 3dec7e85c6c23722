from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from servax.errors import ServaxError
from servax.stages import Stage, Task, Watcher, make_stage


class Notes:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        self.told.append(("plan", *stages))

    def start(self, stage: str, steps: int) -> None:
        self.told.append(("start", stage, steps))

    def advance(self, note: str = "", stage: str | None = None) -> None:
        self.told.append(("advance", note))

    def finish(self, stage: str, *, cached: bool) -> None:
        self.told.append(("finish", stage, cached))


def perform(
    stage: Stage, steps: int, work: Callable[[Stage], Mapping[str, Any]], watcher: Watcher
) -> dict[str, Any]:
    task = Task(stage, "train", (), steps, 1.0, lambda given, watcher: work(given))
    return task.perform(watcher)


def stage_of(run: Path, **settings: Any) -> Stage:
    return make_stage(run, "target", "fold 1: target", {"width": 4, **settings})


def test_a_stage_lives_in_a_folder_named_by_its_settings(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, seed=1, rates=(1, 2))
    settings = {"kind": "target", "width": 4, "seed": 1, "rates": [1, 2]}
    assert json.loads(stage.settings) == settings
    text = json.dumps(settings, sort_keys=True)
    assert stage.key == hashlib.sha256(text.encode()).hexdigest()
    assert stage.folder == tmp_path / "stages" / f"target-{stage.key[:16]}"
    # The order in which settings are written down does not matter.
    twin = make_stage(tmp_path, "target", "other name", {"rates": [1, 2], "seed": 1, "width": 4})
    assert (twin.folder, twin.settings) == (stage.folder, stage.settings)


def test_other_settings_are_another_stage(tmp_path: Path) -> None:
    folders = {
        stage_of(tmp_path, seed=1).folder,
        stage_of(tmp_path, seed=2).folder,
        make_stage(tmp_path, "extractor", "", {"width": 4, "seed": 1}).folder,
    }
    assert len(folders) == 3


def test_work_is_done_once(tmp_path: Path) -> None:
    stage, notes, done = stage_of(tmp_path), Notes(), []

    def work(given: Stage) -> Mapping[str, Any]:
        assert given.folder.is_dir()
        assert given.result() is None  # not done while it is being done
        notes.advance("step")
        done.append(given.name)
        return {"best": 0.5, "epochs": 3}

    for _ in range(2):
        assert perform(stage, 7, work, notes) == {"best": 0.5, "epochs": 3}
    assert done == ["fold 1: target"]
    assert notes.told == [
        ("start", "fold 1: target", 7),
        ("advance", "step"),
        ("finish", "fold 1: target", False),
        ("finish", "fold 1: target", True),
    ]
    assert [file.name for file in stage.folder.iterdir()] == ["done.json"]


def test_work_that_failed_is_not_done(tmp_path: Path) -> None:
    stage, notes = stage_of(tmp_path), Notes()

    def fail(given: Stage) -> Mapping[str, Any]:
        raise ServaxError("no luck.")

    with pytest.raises(ServaxError, match=r"^no luck\.$"):
        perform(stage, 1, fail, notes)
    assert stage.result() is None
    assert [told[0] for told in notes.told] == ["start"]
    assert perform(stage, 1, lambda given: {"ok": True}, notes) == {"ok": True}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"settings": "SETTINGS"',
        b'{"settings": "other", "result": {}}',
        b'{"result": {}}',
    ],
)
def test_a_damaged_note_counts_as_not_done(tmp_path: Path, content: bytes) -> None:
    stage = stage_of(tmp_path)
    perform(stage, 1, lambda given: {"ok": 1}, Watcher())
    (stage.folder / "done.json").write_bytes(content)
    assert stage.result() is None
    assert perform(stage, 1, lambda given: {"ok": 2}, Watcher()) == {"ok": 2}
    assert stage.result() == {"ok": 2}


def test_a_cut_note_counts_as_not_done(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    perform(stage, 1, lambda given: {"ok": 1}, Watcher())
    whole = (stage.folder / "done.json").read_bytes()
    for length in range(len(whole)):
        (stage.folder / "done.json").write_bytes(whole[:length])
        assert stage.result() is None


def test_a_result_must_be_an_object(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    stage.folder.mkdir(parents=True)
    note = {"settings": stage.settings, "result": [1]}
    (stage.folder / "done.json").write_text(json.dumps(note), encoding="utf-8")
    assert stage.result() is None


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "stages").write_text("in the way", encoding="utf-8")
    stage = stage_of(tmp_path)
    sentence = f"{stage.folder}: cannot be written (Not a directory)."
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        perform(stage, 1, lambda given: {}, Watcher())
    gone = stage_of(tmp_path / "elsewhere")
    sentence = f"{gone.folder}: cannot be written (No such file or directory)."
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        gone.complete({})
