"""A finished run is found finished: the stages of the paper's recipe in small keep their keys.

``frozen_keys.txt`` holds the folders that the run of commit 23d3fe1 left below ``stages``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from servax.experiments import load_recipe
from servax.experiments.fold import RunData
from servax.experiments.run import Plan
from servax.features import Scale, ScaleSettings
from servax.stages import Watcher

RECIPE = Path(__file__).parents[2] / "recipes" / "synthetic_paper.yaml"
FROZEN = Path(__file__).with_name("frozen_keys.txt")
TOP_DB = 27.614147186279297
"""The loudest of the training speakers there; another machine may round the last digits apart."""


def test_stages_keep_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Scale.fit

    def frozen(*arguments: object, **settings: object) -> Scale:
        fitted = fit(*arguments, **settings)  # type: ignore[arg-type]
        assert fitted.settings.top_db == pytest.approx(TOP_DB, abs=1e-3)
        return Scale(ScaleSettings(TOP_DB, 80.0))

    monkeypatch.setattr(Scale, "fit", frozen)
    plan = Plan.of(RunData.of(load_recipe(RECIPE), tmp_path, Watcher()), {})
    planned = sorted(task.stage.folder.name for task in plan.tasks)
    assert planned == FROZEN.read_text(encoding="utf-8").split()
