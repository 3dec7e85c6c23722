"""A run on sound: heads on a tiny speech encoder, attacked, defended, reported, resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from servax.audio import read
from servax.cli import main
from servax.defences import EncoderTuning
from servax.errors import ServaxError, SettingError
from servax.evaluation import records
from servax.evaluation.loading import load_system
from servax.experiments import EncoderRecipe, Finished, estimate, load_recipe, run
from servax.experiments.fold import RunData
from servax.experiments.run import Plan
from servax.stages import Watcher
from servax.training import HeadTraining

RECIPE = """
name: tiny-sound
corpus: {{name: synthetic, scheme: four}}
groups: 6
held_out: [2]
encoder: {encoder}
layers: 1
head: {{draws: 1}}
rivals: {{noisy: {{draws: 2, highest_snr_db: 10.0}}, tuned: {{draws: 1}}}}
tunings: {{tuned: {{layers: 1, epochs: 1, attack_db: 40.0, attack_steps: 1}}}}
defences: {{low-pass: "low-pass:3000", mp3: "mp3:0.5", noise: "white-noise:20"}}
draws: 2
seconds: 0.5
utterances: 8
attacks: {{snr_db: [60, 40], steps: 2, square: 4}}
"""


@pytest.fixture(scope="module")
def encoder(
    tiny_wav2vec2: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny_wav2vec2(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> EncoderRecipe:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE.format(encoder=encoder), encoding="utf-8")
    found = load_recipe(path)
    assert isinstance(found, EncoderRecipe)
    return found


@pytest.fixture(scope="module")
def finished(recipe: EncoderRecipe, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(recipe, tmp_path_factory.mktemp("run"), command="servax run tiny.yaml")


def test_every_system_meets_every_attacker(finished: Finished) -> None:
    frame = finished.records.frame
    assert set(frame["defence"]) == {"undefended", "noisy", "tuned", "low-pass", "mp3", "noise"}
    assert set(frame["space"]) == {"waveform"}
    for system, rows in frame.groupby("defence"):
        known = set(rows["knowledge"])
        through = "bpda" if system == "mp3" else "adaptive"
        assert {"none", "oblivious", "transfer", "black_box", through} <= known, system
        for attacker, each in rows.groupby("knowledge"):
            budgets = {round(-20 * np.log10(e)) for e in each["epsilon"] if e > 0}
            assert budgets == (set() if attacker == "none" else {60, 40}), (system, attacker)


def test_the_clean_answers_are_those_of_the_saved_recogniser(
    finished: Finished, recipe: EncoderRecipe
) -> None:
    """What the folder of the fold's target says of the sound itself, read with soundfile."""
    folder = finished.report.html.parents[1]
    rows = finished.records.frame
    clean = rows[(rows["attack"] == "none") & (rows["defence"] == "undefended")]
    system = load_system(str(folder / "models" / "fold-2-target"), seconds=recipe.seconds)
    data = RunData.of(recipe, folder, Watcher())
    table = data.corpus.utterances.set_index("utterance")

    told = []
    for name in clean["utterance"]:
        sound = read(data.corpus.root / table.loc[name, "path"], sample_rate=16_000)
        length = round(recipe.seconds * 16_000)
        start = (len(sound) - length) // 2
        middle = torch.from_numpy(sound[start : start + length]).unsqueeze(0)
        with torch.no_grad():
            told.append(system.labels[int(system.model(middle).argmax())])
    assert told == clean["prediction"].tolist()


def test_a_second_run_computes_nothing(
    finished: Finished, recipe: EncoderRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished.report.html.parents[1]

    class Notes(Watcher):
        done: list[bool] = []  # noqa: RUF012

        def finish(self, stage: str, *, cached: bool) -> None:
            self.done.append(cached)

    again = run(recipe, folder, command="again", watcher=Notes())
    assert all(Notes.done)
    assert again.records.frame.equals(finished.records.frame)
    kept = records.read(folder / "records" / "fold-2.parquet")
    assert kept.provenance["attacks"]["snr_db"] == [60.0, 40.0]


def test_the_report_is_one_of_sound(finished: Finished) -> None:
    text = finished.report.markdown.read_text(encoding="utf-8")
    assert "by the worst of all" in text
    assert "| 60 dB | 40 dB |" in text.replace("clean | ", "")


def test_a_tuned_rival_has_an_encoder_of_its_own(finished: Finished, recipe: EncoderRecipe) -> None:
    models = finished.report.html.parents[1] / "models"
    tuned, target = (
        load_system(str(models / f"fold-2-{role}"), seconds=recipe.seconds).model
        for role in ("tuned", "target")
    )
    pairs = zip(tuned.encoder.parameters(), target.encoder.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_another_attack_changes_no_training(recipe: EncoderRecipe, tmp_path: Path) -> None:
    longer = dataclasses.replace(
        recipe, attacks=dataclasses.replace(recipe.attacks, steps=recipe.attacks.steps + 1)
    )
    plans = [Plan.of(RunData.of(each, tmp_path, Watcher()), {}) for each in (recipe, longer)]
    keys = [
        {task.stage.folder.name for task in plan.tasks if task.kind == "train"} for plan in plans
    ]
    assert keys[0] == keys[1]
    attacks = [{t.stage.folder.name for t in p.tasks if t.kind == "attack"} for p in plans]
    assert len(attacks[0] & attacks[1]) < len(attacks[0])


def test_an_estimate_before_anything_is_done(recipe: EncoderRecipe, tmp_path: Path) -> None:
    plan = Plan.of(RunData.of(recipe, tmp_path, Watcher()), {})
    pace = estimate.rehearse(plan)
    overview = estimate.survey(plan)
    seconds = overview.seconds_left(pace)
    assert seconds is not None
    assert seconds > 0
    assert not (tmp_path / "stages").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"defences": {"undefended": "mp3:0.5"}}, "defences is 'undefended'"),
        ({"defences": {"noisy": "mp3:0.5"}}, "defences is 'noisy'"),
        ({"rivals": {"target": None}}, "rivals is 'target'"),
        ({"head": HeadTraining(draws=0)}, "head.draws is 0, expected at least 1"),
        ({"rivals": {"a/b": None}}, "rivals"),
        (
            {"tunings": {"quiet": EncoderTuning()}},
            "tunings is .quiet., expected one of noisy, tuned",
        ),
        ({"seconds": 0.0}, r"seconds is 0.0, expected a length in \[.05, 30\] s"),
        ({"utterances": 0}, "utterances is 0"),
    ],
)
def test_wrong_values_are_refused(
    recipe: EncoderRecipe, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        dataclasses.replace(recipe, **change)


def test_a_purifier_that_has_heard_the_test_speakers_is_refused(
    recipe: EncoderRecipe, tmp_path: Path
) -> None:
    """`ssad-plus-synthetic` was trained on speakers 06m7 and later, so on group 6 too."""
    heard = dataclasses.replace(
        recipe, held_out=(6,), defences={"ssad-plus": "ssad-plus-synthetic"}
    )
    with pytest.raises(ServaxError, match=r"held out in fold 6 \("):
        run(heard, tmp_path / "run", command="x")


def test_a_defence_that_does_not_fit_is_refused_before_any_training(
    recipe: EncoderRecipe, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(recipe, defences={"filter": "mean-filter:3"})
    with pytest.raises(ServaxError, match="waveform"):
        run(wrong, tmp_path / "run", command="x")
    assert not (tmp_path / "run" / "stages").exists()


def test_the_command_says_how_far_it_is(
    encoder: Path, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(encoder=encoder), encoding="utf-8")
    folder = finished.report.html.parents[1]
    assert main(["run", str(path), "--status", "--out", str(folder)]) == 0
    assert "fold 2: target" in capsys.readouterr().out
