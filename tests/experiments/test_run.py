"""A recipe from recordings to report: done once, killed and taken up again, changed and redone."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from servax import audio
from servax.attacks import PGD
from servax.errors import AudioError, CorpusError, ServaxError, SettingError
from servax.evaluation import records
from servax.experiments import Finished, load_recipe, run
from servax.experiments.fold import RunData
from servax.experiments.logmel_fold import FoldPlan
from servax.experiments.run import report_run
from servax.models import load_network
from servax.purifier import Purifier
from servax.report import Examples
from servax.stages import Watcher
from servax.training import Compute, read_log

NETWORKS = (
    "target",
    "extractor",
    "ssad",
    "ssad-residual",
    "adversarial-similarity-0.02",
    "trades",
    "smoothed-0.1",
)
DEFENCES = (
    "gaussian-noise",
    "mean-filter",
    "quantise-4",
    "adversarial-similarity-0.02",
    "trades",
    "smoothed-0.1",
    "ssad",
    "ssad-residual",
)
ATTACKS = (
    "clean",
    "fgsm",
    "pgd",
    *(f"adaptive-{attack}-{name}" for name in DEFENCES for attack in ("fgsm", "pgd")),
)
KINDS = (*NETWORKS[:4], "adversarial-start", *NETWORKS[4:], *ATTACKS)
STAGES = [*(f"fold {fold}: {kind}" for fold in (1, 3) for kind in KINDS), "fold 1: example"]


class Notes(Watcher):
    """A watcher that counts."""

    def __init__(self) -> None:
        self.planned: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.advanced: dict[str, int] = {}
        self.cached: dict[str, bool] = {}

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        self.planned = dict(stages)

    def start(self, stage: str, steps: int) -> None:
        self.current = stage
        self.steps[stage], self.advanced[stage] = steps, 0

    def advance(self, note: str = "", stage: str | None = None) -> None:
        self.advanced[self.current] += 1

    def finish(self, stage: str, *, cached: bool) -> None:
        self.cached[stage] = cached


@pytest.fixture(scope="module", autouse=True)
def _module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(
    recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished, Notes]:
    """Return a run that nobody disturbed."""
    folder, notes = tmp_path_factory.mktemp("runs") / "whole", Notes()
    finished = run(load_recipe(recipe_file), folder, command="servax run tiny", watcher=notes)
    return folder, finished, notes


def test_a_run_leaves_records_and_report(whole: tuple[Path, Finished, Notes]) -> None:
    folder, finished, _ = whole
    frame = finished.records.frame
    # 16 + 8 test utterances under 8 defences: clean, FGSM and PGD, and both by who knows.
    assert len(frame) == (16 + 8) * 9 * (1 + 2 + 2 + 2 + 1)
    assert sorted(frame["fold"].unique()) == [1, 3]
    assert set(frame["target"]) == {"vgg16-w2"}
    assert set(frame["defence"]) == {"undefended", *DEFENCES}
    assert frame.groupby("fold")["speaker"].unique().map(sorted).to_dict() == {
        1: ["s0", "s1"],
        3: ["s3"],
    }
    told = finished.records.provenance
    assert told["command"] == "servax run tiny"
    assert (told["recipe"], told["scheme"], told["seed"]) == ("tiny", "four", 1)
    assert told["classes"] == ["angry", "happy", "neutral", "sad"]
    assert told["settings"]["purifiers"]["ssad"]["ssa"]["steps"] == 1
    assert finished.report.markdown.is_file()
    assert finished.report.html.stat().st_size > 100_000
    for fold in (1, 3):
        part = records.read(folder / "records" / f"fold-{fold}.parquet").frame
        pd.testing.assert_frame_equal(part, frame[frame["fold"] == fold].reset_index(drop=True))
    for kind in NETWORKS:
        epochs = [line["epoch"] for line in read_log(folder / "logs" / f"fold-1-{kind}.jsonl")]
        assert epochs == list(range(len(epochs)))
        assert epochs


def test_the_watcher_hears_every_stage(whole: tuple[Path, Finished, Notes]) -> None:
    notes = whole[2]
    assert list(notes.planned) == STAGES
    assert all(cost > 0 for cost in notes.planned.values())
    assert list(notes.cached) == ["features", *STAGES]
    assert notes.advanced["features"] == notes.steps["features"] == 32
    for stage in STAGES:
        assert 0 < notes.advanced[stage] <= notes.steps[stage]
        if stage.partition(": ")[2] in (*ATTACKS, "example"):
            assert notes.advanced[stage] == notes.steps[stage]


def test_records_are_what_the_saved_networks_predict(
    whole: tuple[Path, Finished, Notes], recipe_file: Path, tmp_path: Path
) -> None:
    """Attack and score the published weights again, apart from everything the run did."""
    folder, finished, _ = whole
    data = RunData.of(load_recipe(recipe_file), tmp_path, Watcher())
    parts = FoldPlan(data, 2, seed=0, origin={}).parts
    target = load_network(folder / "models" / "fold-3-target").network
    purifier = Purifier.from_pretrained(folder / "models" / "fold-3-ssad")
    assert purifier.scale.settings == parts.scale.settings
    batch = parts.test.batch(np.arange(len(parts.test)))
    adversarial = PGD(step=0.02, epsilon=0.06, steps=2)(target, batch.x, batch.y)
    with torch.no_grad():
        expected = {
            ("undefended", "none"): target(batch.x),
            ("undefended", "pgd"): target(adversarial),
            ("ssad", "none"): target(purifier(batch.x)),
            ("ssad", "pgd"): target(purifier(adversarial)),
        }
    frame = finished.records.frame
    frame = frame[(frame["fold"] == 3) & frame["knowledge"].isin(("none", "oblivious"))]
    for (defence, attack), logits in expected.items():
        rows = frame[(frame["defence"] == defence) & (frame["attack"] == attack)]
        rows = rows[rows["strength"] == (0 if attack == "none" else 2)]
        labels = [parts.test.corpus.labels[i] for i in logits.argmax(1)]
        assert rows["prediction"].tolist() == labels, (defence, attack)


def test_target_and_extractor_are_different_networks(whole: tuple[Path, Finished, Notes]) -> None:
    models = whole[0] / "models"
    target = load_network(models / "fold-1-target").network.state_dict()
    extractor = load_network(models / "fold-1-extractor").network.state_dict()
    assert not torch.equal(target["features.conv1_1.weight"], extractor["features.conv1_1.weight"])


def test_the_example_is_an_utterance_of_the_first_fold(whole: tuple[Path, Finished, Notes]) -> None:
    example = Examples.load(whole[0] / "example.npz")
    assert re.match(
        r"s[01]-\w+-\d\.wav: \w+, read as \w+; after PGD-2 as \w+; purified \(ssad\)", example.title
    )
    assert example.original.shape == (64, 40)
    assert 0 < np.abs(example.attacked - example.original).max() <= 0.06 * 80 + 1e-4


@pytest.fixture
def _without_report(whole: tuple[Path, Finished, Notes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds that figures take where only records are looked at."""
    done = whole[1].report
    # The package has a function of the module's name.
    module = sys.modules["servax.experiments.run"]
    monkeypatch.setattr(module, "write_report", lambda *_, **__: done)


@pytest.mark.usefixtures("_without_report")
def test_a_second_run_computes_nothing(
    whole: tuple[Path, Finished, Notes], recipe_file: Path
) -> None:
    folder, first, _ = whole
    killed = folder / "records" / ".fold-3.parquet.e6sh8z5g.part"
    killed.write_bytes(b"PAR1")
    before = {p: p.stat().st_mtime_ns for p in (folder / "stages").rglob("*")}
    notes = Notes()
    again = run(load_recipe(recipe_file), folder, command="another", watcher=notes)
    assert notes.cached == dict.fromkeys(["features", *STAGES], True)
    assert sum(notes.advanced.values()) == 0
    pd.testing.assert_frame_equal(again.records.frame, first.records.frame)
    assert again.records.provenance == first.records.provenance
    assert {p: p.stat().st_mtime_ns for p in (folder / "stages").rglob("*")} == before
    assert not killed.exists()
    reread = report_run(folder)
    pd.testing.assert_frame_equal(reread.records.frame, first.records.frame)


@pytest.mark.usefixtures("_without_report")
@pytest.mark.parametrize(
    ("changed", "kinds", "attack", "strengths"),
    [
        ({"steps": 1}, ["pgd"], "pgd", [1.0, 3.0]),
        (
            {"epsilons": (0.01, 0.02)},
            ["fgsm", *(f"adaptive-fgsm-{name}" for name in DEFENCES)],
            "fgsm",
            [0.01, 0.02],
        ),
    ],
)
def test_another_attack_trains_nothing(
    whole: tuple[Path, Finished, Notes],
    recipe_file: Path,
    tmp_path: Path,
    changed: dict[str, Any],
    kinds: Sequence[str],
    attack: str,
    strengths: Sequence[float],
) -> None:
    shutil.copytree(whole[0] / "stages", tmp_path / "stages")
    recipe = load_recipe(recipe_file)
    fewer = replace(recipe, held_out=(3,), attacks=replace(recipe.attacks, **changed))
    notes = Notes()
    finished = run(fewer, tmp_path, command="servax run fewer", watcher=notes)
    stages = [*(f"fold 3: {kind}" for kind in KINDS), "fold 3: example"]
    again = {f"fold 3: {kind}" for kind in (*kinds, "example")}
    assert notes.cached == {name: name not in again for name in ("features", *stages)}
    frame = finished.records.frame
    assert sorted(frame[frame["attack"] == attack]["strength"].unique()) == strengths
    rest = frame[frame["attack"] != attack].reset_index(drop=True)
    whole_frame = whole[1].records.frame
    same = whole_frame[(whole_frame["fold"] == 3) & (whole_frame["attack"] != attack)]
    pd.testing.assert_frame_equal(rest, same.reset_index(drop=True))


def copied(manifest: Path, folder: Path) -> Path:
    shutil.copytree(manifest.parent, folder)
    return folder / manifest.name


def contents(manifest: Path, recipe_file: Path, run_folder: Path) -> tuple[str, str]:
    """Return the hash of the corpus and the key of a stage built on it."""
    recipe = load_recipe(recipe_file)
    recipe = replace(recipe, corpus=replace(recipe.corpus, name=str(manifest)))
    data = RunData.of(recipe, run_folder, Watcher())
    return data.content, FoldPlan(data, 0, 1, {}).target.stage.key


def test_edited_labels_and_recordings_are_noticed(
    manifest: Path, recipe_file: Path, tmp_path: Path
) -> None:
    table = copied(manifest, tmp_path / "corpus")
    first = contents(table, recipe_file, tmp_path / "run")
    assert contents(table, recipe_file, tmp_path / "run") == first
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("s3-sad-1.wav,sad", "s3-sad-1.wav,happy"), encoding="utf-8")
    labelled = contents(table, recipe_file, tmp_path / "run")
    table.write_text(text, encoding="utf-8")
    samples = audio.read(table.parent / "s0-sad-1.wav")
    audio.write(table.parent / "s0-sad-1.wav", samples[::-1], 16_000)
    spoken = contents(table, recipe_file, tmp_path / "run")
    for ours in zip(first, labelled, spoken, strict=True):
        assert len(set(ours)) == 3


def test_moved_recordings_are_the_same(manifest: Path, recipe_file: Path, tmp_path: Path) -> None:
    table = copied(manifest, tmp_path / "corpus")
    here = contents(manifest, recipe_file, tmp_path / "run")
    assert contents(table, recipe_file, tmp_path / "run")[0] == here[0]


def test_a_device_that_is_not_there_is_said_first(recipe_file: Path, tmp_path: Path) -> None:
    recipe = replace(load_recipe(recipe_file), compute=Compute("cuda:99"))
    with pytest.raises(SettingError, match=r"^device is 'cuda:99', expected a device of this ma"):
        run(recipe, tmp_path / "run", command="x")
    assert not (tmp_path / "run").exists()


def test_a_corpus_that_is_not_there(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    gone = replace(recipe, corpus=replace(recipe.corpus, name=str(tmp_path / "gone.csv")))
    sentence = (
        f"{tmp_path}/gone.csv: does not exist or is no file, expected a CSV or Parquet table."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        run(gone, tmp_path / "run", command="x")


def test_more_groups_than_speakers(recipe_file: Path, tmp_path: Path) -> None:
    recipe = replace(load_recipe(recipe_file), groups=5)
    sentence = "groups is 5, expected 'speaker' or a whole number from 3 to 4 (the speakers)."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        run(recipe, tmp_path / "run", command="x")


def test_a_recording_that_is_no_sound(manifest: Path, recipe_file: Path, tmp_path: Path) -> None:
    table = copied(manifest, tmp_path / "corpus")
    (table.parent / "s1-happy-0.wav").write_bytes(b"no sound")
    recipe = load_recipe(recipe_file)
    broken = replace(recipe, corpus=replace(recipe.corpus, name=str(table)))
    with pytest.raises(AudioError, match=rf"^{re.escape(str(table.parent))}/s1-happy-0\.wav: "):
        run(broken, tmp_path / "run", command="x")


def test_a_label_that_no_training_speaker_has(
    manifest: Path, recipe_file: Path, tmp_path: Path
) -> None:
    table = copied(manifest, tmp_path / "corpus")
    lines = table.read_text(encoding="utf-8").splitlines()
    # Fold 3 of 3 groups: s3 is held out, s0 and s1 validate, s2 trains.
    table.write_text(
        "\n".join(line for line in lines if not line.startswith("s2-sad")), encoding="utf-8"
    )
    recipe = load_recipe(recipe_file)
    short = replace(recipe, held_out=(3,), corpus=replace(recipe.corpus, name=str(table)))
    sentence = (
        "mine: no training utterance is labelled sad, expected some of every label; choose other "
        "folds or another label scheme."
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        run(short, tmp_path / "run", command="x")


def test_a_folder_that_cannot_be_written(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way", encoding="utf-8")
    with pytest.raises(ServaxError, match=rf"^{re.escape(str(tmp_path))}/run.*: cannot be written"):
        run(load_recipe(recipe_file), tmp_path / "run", command="x")


def test_a_folder_without_records_has_no_report(tmp_path: Path) -> None:
    sentence = (
        f"{tmp_path}: holds no records/*.parquet; expected the folder of a finished run, or one "
        "Parquet file of records."
    )
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        report_run(tmp_path)
