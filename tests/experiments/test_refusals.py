"""What a run refuses: one sentence, an exit code, and nothing that was done is lost."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servax.cli import main
from servax.corpora import Fold, load
from servax.errors import LeakError, ServaxError
from servax.experiments import Recipe, load_recipe, run
from servax.report import ReportPaths
from servax.stages import Watcher

ADVICE = r" cannot be written \(File too large\); free some space and run it again: what is done "


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Return the one sentence of a command that leaves with a code."""
    assert main(["run", *map(str, arguments)]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("servax: ")]
    assert len(said) == 1
    assert "Traceback" not in "".join(lines)
    return said[0].removeprefix("servax: ")


@pytest.mark.parametrize(
    ("key", "misspelt", "where", "nearest"),
    [
        ("objectives: [", "objectivs: [", "adversarial.objectivs", "objectives"),
        ("plain_iterations", "plain_iteration", "adversarial.training.plain_iteration", ""),
        ("seeds: [1]", "seed: 1", "seed", "seeds"),
        ("adaptive_steps", "adaptiv_steps", "attacks.adaptiv_steps", "adaptive_steps"),
        ("compute: {device: cpu}", "resource: {retries: 1}", "resource", "resources"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    recipe_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    misspelt: str,
    where: str,
    nearest: str,
) -> None:
    text = recipe_file.read_text(encoding="utf-8")
    assert key in text
    recipe = tmp_path / "misspelt.yaml"
    recipe.write_text(text.replace(key, misspelt, 1), encoding="utf-8")
    sentence = refused(capsys, 2, recipe, "-o", tmp_path / "run")
    assert sentence.startswith(f"{recipe}: unknown key '{where}', expected one of ")
    assert sentence.endswith(f" Did you mean '{nearest or 'plain_iterations'}'?")
    assert not (tmp_path / "run").exists()


def test_a_recording_of_two_speakers_is_named(
    manifest: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(manifest.parent, tmp_path / "corpus")
    shutil.copyfile(tmp_path / "corpus/s0-sad-0.wav", tmp_path / "corpus/s3-sad-1.wav")
    text = recipe_file.read_text(encoding="utf-8")
    recipe = tmp_path / "leak.yaml"
    recipe.write_text(
        text.replace(str(manifest), str(tmp_path / "corpus" / manifest.name)), encoding="utf-8"
    )
    sentence = refused(capsys, 2, recipe, "-o", tmp_path / "run")
    assert sentence == (
        "s3-sad-1.wav (train) and s0-sad-0.wav (test) are the same recording: remove one of them "
        "or give both to one part."
    )
    assert not (tmp_path / "run").exists()


def test_a_fold_of_ones_own_with_a_speaker_in_two_parts(manifest: Path) -> None:
    corpus = load(str(manifest), scheme="four")
    names = list(corpus.utterances["utterance"])
    parts = {
        "train": [n for n in names if n.startswith(("s2", "s3"))],
        "validation": [n for n in names if n.startswith("s1")],
        "test": [n for n in names if n.startswith("s0")],
    }
    parts["test"].append(parts["validation"].pop())
    heard = [corpus.subset(np.isin(names, parts[part])) for part in parts]
    sentence = "speaker s1 stands in validation and in test: give each speaker to one part only."
    with pytest.raises(LeakError, match=f"^{re.escape(sentence)}$"):
        Fold(0, *heard)


def test_a_missing_corpus_says_where_it_was_looked_for_and_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAX_DATA", str(tmp_path))
    recipe = Path(__file__).parents[2] / "recipes" / "ravdess_quick.yaml"
    for flags in ([], ["--dry-run"], ["--status"]):
        assert refused(capsys, 2, recipe, "-o", tmp_path / "run", *flags) == (
            f"ravdess was looked for in {tmp_path}/ravdess, which is not a folder. Run 'servax "
            "corpus fetch ravdess', or pass the folder that holds it as root."
        )
    assert list(tmp_path.iterdir()) == []


class Kept(Watcher):
    """Remembers which stages were found done."""

    def __init__(self) -> None:
        self.cached: list[str] = []

    def finish(self, stage: str, *, cached: bool) -> None:
        if cached:
            self.cached.append(stage)


@pytest.fixture
def _room_again() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_at(function: Callable[..., Any], room: int) -> Callable[..., Any]:
    """Return a function under which files cannot grow beyond `room` bytes."""

    def filling(*arguments: Any, **settings: Any) -> Any:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            return function(*arguments, **settings)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return filling


# Where files are written, in the order in which a run comes by, and the file that is named.
PLACES = [
    ("servax.features.cache", "_compute", r"cache/features: the feature cache"),
    ("servax.experiments.fold.RunData", "save_folds", r"run/folds/fold-3\.json:"),
    ("servax.training.log.TrainingLog", "write", r"stages/target-\w+/log\.jsonl:"),
    ("servax.training.loop", "save_checkpoint", r"stages/target-\w+/checkpoint\.pt:"),
    ("servax.recognition.Recogniser", "_save_pretrained", r"stages/target-\w+/model:"),
    ("servax.stages.Stage", "complete", r"stages/target-\w+:"),
    ("servax.purifier.Purifier", "_save_pretrained", r"stages/ssad-\w+/model:"),
    ("servax.evaluation.records", "write_whole", r"stages/\w+-\w+/records\.parquet:"),
    ("servax.report.Examples", "save", r"stages/example-\w+/example\.npz:"),
    ("servax.experiments.run", "publish_plan", r"records/fold-3\.parquet:"),
    ("servax.experiments.run", "_publish_models", r"models/fold-3-target/settings\.json:"),
    ("servax.experiments.run", "write_report", r"report/[\w/-]+\.\w+:"),
]


def no_report(records: Any, folder: Path, **settings: Any) -> ReportPaths:
    return ReportPaths(folder)


def smaller(recipe: Recipe) -> Recipe:
    """Return a recipe of one fold with few stages."""
    return replace(
        recipe,
        held_out=(3,),
        purifiers={"ssad": recipe.purifiers["ssad"]},
        adversarial=replace(recipe.adversarial, objectives=()),
    )


@pytest.mark.usefixtures("_room_again")
def test_a_full_disk_costs_nothing_that_was_done(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses to let files grow; real writes fail, one place after the other."""
    monkeypatch.setenv("SERVAX_CACHE", str(tmp_path / "cache"))
    recipe, folder = smaller(load_recipe(recipe_file)), tmp_path / "run"
    kept: dict[Path, bytes] = {}
    for home, name, told in PLACES:
        module, _, owner = home.rpartition(".")
        place = getattr(import_module(module), owner) if owner[0].isupper() else None
        place = place or import_module(home)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full_at(getattr(place, name), 50))
            with pytest.raises(ServaxError, match=told + ADVICE):
                run(recipe, folder, command="servax run tiny")
        for path, content in kept.items():
            assert path.read_bytes() == content, (told, path)
        kept = {path: path.read_bytes() for path in folder.glob("stages/*/done.json")}
    watcher = Kept()
    # Figures take seconds, and one report has been drawn.
    monkeypatch.setattr(import_module("servax.experiments.run"), "write_report", no_report)
    finished = run(recipe, folder, command="servax run tiny", watcher=watcher)
    assert len(watcher.cached) == len(kept) + 1  # and the features
    undisturbed = run(recipe, tmp_path / "other", command="servax run tiny")
    assert finished.records.frame.equals(undisturbed.records.frame)
