"""The paper's whole evaluation on synthetic speech: run by `make test`, then again through Ray."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

import servax
from servax.evaluation import records
from servax.experiments import load_recipe, run
from servax.stages import RayEngine, Watcher

RECIPE = Path(servax.__file__).parents[1] / "recipes" / "synthetic_paper.yaml"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run that `make test` left, with the features it cached."""
    folder = os.environ.get("SERVAX_PAPER")
    if not folder:
        pytest.skip("SERVAX_PAPER names no finished run; `make test` makes one")
    # The session's tests have a cache of their own; this one goes on from what was spoken already.
    monkeypatch.delenv("SERVAX_CACHE")
    return Path(folder)


def test_everything_is_in_the_report(finished: Path) -> None:
    recipe = load_recipe(RECIPE)
    tables = [records.read(path) for path in sorted((finished / "records").glob("*.parquet"))]
    assert [path.stem for path in sorted((finished / "records").iterdir())] == [
        "fold-1-seed-0",
        "fold-1-seed-1",
    ]
    frame = records.concat(tables).frame
    assert set(frame["defence"]) == {"undefended", *recipe.defences}
    report = (finished / "report" / "report.md").read_text(encoding="utf-8")
    for name in (*recipe.defences, "paper, IEMOCAP", "seed", "gender"):
        assert name in report, name
    for kind in ("tables/*.tex", "tables/*.csv", "figures/*.png", "report.html"):
        assert list((finished / "report").glob(kind)), kind


def test_a_finished_run_is_found_finished(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Notes(Watcher):
        cached: ClassVar[list[bool]] = []

        def finish(self, stage: str, *, cached: bool) -> None:
            self.cached.append(cached)

    # The package has a function of the module's name.
    monkeypatch.setattr(
        sys.modules["servax.experiments.run"], "write_report", lambda *_, **__: None
    )
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    again = run(load_recipe(RECIPE), copy, command="again", watcher=Notes())
    assert len(Notes.cached) == 1 + len(list((finished / "stages").iterdir()))  # features too
    assert all(Notes.cached)
    theirs = [records.read(path).frame for path in sorted((finished / "records").iterdir())]
    pd.testing.assert_frame_equal(again.records.frame, pd.concat(theirs, ignore_index=True))


@pytest.mark.slow
def test_ray_gives_the_records_of_the_local_engine(finished: Path, tmp_path: Path) -> None:
    recipe = replace(load_recipe(RECIPE), seeds=(0,))
    ours = run(recipe, tmp_path / "ray", command="ray", engine=RayEngine(cpus=2)).records.frame
    theirs = records.read(finished / "records" / "fold-1-seed-0.parquet").frame
    pd.testing.assert_frame_equal(ours, theirs)
