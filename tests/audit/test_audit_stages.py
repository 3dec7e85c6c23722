"""A whole audit of a linear model with three defences and a surrogate, run once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from servax.attacks import FGSM, PGD
from servax.audit import run_audit
from servax.audit.card import evaluation_card
from servax.audit.plan import plan
from servax.defences import Defended, MeanFilter
from servax.errors import ServaxError, SettingError
from servax.evaluation import records
from servax.evaluation.loading import load_system
from servax.evaluation.threats import Budget, known
from servax.stages import Watcher, held

RADIUS = 0.053
ORDER = ["defence", "knowledge", "attack", "strength", "utterance"]


@pytest.fixture(scope="session")
def frame(done: Any) -> pd.DataFrame:
    return done.audited.result.records.frame


def part(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame.sort_values(ORDER).reset_index(drop=True)


def keys(audit: Any) -> dict[str, str]:
    return {each.task.stage.name: each.task.stage.key for each in plan(audit)}


def test_each_system_meets_each_attacker(frame: pd.DataFrame) -> None:
    found = {name: set(rows["knowledge"]) - {"none"} for name, rows in frame.groupby("defence")}
    defended = {"oblivious", "transfer", "black_box", "adaptive"}
    assert found == {
        "undefended": {"transfer", "black_box", "adaptive"},
        "mean": defended | {"bpda"},
        "noisy": defended | {"bpda"},
        "twin": defended,  # nothing stands before it, so there is nothing to put the identity for
    }
    assert not frame.duplicated(["defence", "attack", "strength", "knowledge", "utterance"]).any()
    assert frame.groupby(["defence", "attack", "strength", "knowledge"]).size().eq(8).all()


def test_the_bare_model_is_not_attacked_twice(done: Any, frame: pd.DataFrame) -> None:
    """Nothing stands before it: the oblivious attack is the one of an attacker who knows it."""
    planned = [each.task.stage.name for each in plan(done.audit)]
    assert "oblivious pgd" in planned
    assert not {"adaptive pgd on undefended", "adaptive fgsm on undefended"} & set(planned)
    assert {"adaptive pgd on mean", "adaptive apgd-ce on undefended"} <= set(planned)
    material, model = done.audit.dataset, done.audit.subject.model
    attack = PGD(epsilon=RADIUS, step=0.15 * RADIUS, steps=15)
    expected = model(attack(model, material.x, material.y)).argmax(1)
    rows = part(frame, defence="undefended", attack="pgd", knowledge="adaptive")
    names = dict(zip(material.corpus.utterances["utterance"], expected.tolist(), strict=True))
    assert list(rows["prediction"]) == [material.names[names[u]] for u in rows["utterance"]]
    gaps = done.audited.result.realisability
    known = gaps[gaps["defence"] == "undefended"]
    assert list(known["knowledge"]) == ["adaptive"]
    told = done.audited.result.measures
    assert (told[told["defence"] == "undefended"]["knowledge"] != "oblivious").all()


def test_strengths_are_sizes_of_the_change(frame: pd.DataFrame) -> None:
    fgsm = sorted(part(frame, attack="fgsm")["strength"].unique())
    assert fgsm == pytest.approx([RADIUS * s for s in (0.15, 0.3, 0.45, 0.6, 0.75, 1)])
    apgd = sorted(part(frame, attack="apgd-ce")["strength"].unique())
    assert apgd == pytest.approx([RADIUS * s for s in (0.25, 0.5, 1)])
    assert set(part(frame, attack="none")["strength"]) == {0.0}
    assert set(part(frame, attack="square")["strength"]) == {RADIUS}


def test_what_falls_in_a_small_ball_falls_in_a_larger_one(frame: pd.DataFrame) -> None:
    rows = part(frame, attack="apgd-ce", knowledge="adaptive")
    rows = rows[rows["defence"] != "noisy"]
    for _, each in rows.assign(right=rows["prediction"] == rows["label"]).groupby(
        ["defence", "utterance"]
    ):
        assert each.sort_values("strength")["right"].is_monotonic_decreasing


def test_adaptive_rows_are_those_of_the_attack_on_the_defended_model(
    done: Any, frame: pd.DataFrame
) -> None:
    audit = done.audit
    model = Defended(audit.subject.model, MeanFilter(3)).eval()
    x, y = audit.dataset.x, audit.dataset.y
    expected = {
        "pgd": PGD(step=0.15 * RADIUS, epsilon=RADIUS, steps=15)(model, x, y),
        "fgsm": FGSM(epsilon=RADIUS)(model, x, y),
    }
    clean = model(x).argmax(1)
    names = audit.dataset.names
    for attack, moved in expected.items():
        after = torch.where(clean == y, model(moved).argmax(1), clean)
        rows = part(frame, defence="mean", attack=attack, knowledge="adaptive", strength=RADIUS)
        told = dict(zip(rows["utterance"], rows["prediction"], strict=True))
        utterances = audit.dataset.corpus.utterances["utterance"]
        assert [told[name] for name in utterances] == [names[k] for k in after.tolist()]
    assert bool((after != clean).any())  # or it would say little


def test_what_is_wrong_without_attack_stays_as_it_is(frame: pd.DataFrame) -> None:
    clean = part(frame, attack="none", defence="twin").set_index("utterance")
    wrong = clean[clean["prediction"] != clean["label"]]
    assert len(wrong)
    for knowledge in ("adaptive", "black_box"):
        rows = part(frame, defence="twin", knowledge=knowledge)
        rows = rows[rows["utterance"].isin(wrong.index)]
        assert (rows["prediction"].to_numpy() == wrong["prediction"][rows["utterance"]]).all()


def test_measures_tell_what_was_attacked_and_what_it_took(done: Any, frame: pd.DataFrame) -> None:
    measures = done.audited.result.measures.set_index(["defence", "knowledge", "attack"])
    clean = part(frame, attack="none")
    right = clean[clean["prediction"] == clean["label"]].groupby("defence").size()
    for name in ("undefended", "mean", "noisy", "twin"):
        assert measures.loc[(name, "adaptive", "fgsm"), "attacked"] == right[name]
        assert measures.loc[(name, "adaptive", "fgsm"), "gradients_per_utterance"] == 1
        assert measures.loc[(name, "adaptive", "pgd"), "gradients_per_utterance"] == 15
        assert measures.loc[(name, "black_box", "square"), "gradients_per_utterance"] == 0
    assert (measures["median_distance"].dropna() <= RADIUS * (1 + 1e-5)).all()


def test_gradients_of_a_random_defence_are_means_over_draws(done: Any) -> None:
    measures = done.audited.result.measures
    white = measures[measures["knowledge"].isin(["adaptive", "bpda"])]
    draws = white[white["defence"] == "noisy"].set_index("attack")["draws"]
    assert (draws.drop("pgd-half-draws") >= 2).all()
    assert draws["pgd-half-draws"] == draws["pgd"].max() // 2
    assert (white[white["defence"] != "noisy"]["draws"] == 1).all()
    findings = {(f.check, f.subject): f for f in done.audited.result.findings}
    assert findings["deterministic", "noisy"].severity == "note"
    told = findings["knowledge-complete", "noisy"]
    assert (told.severity, told.evidence["random"]) == ("passed", True)


def test_a_random_defence_is_asked_again_and_again(done: Any) -> None:
    answers = done.audited.result.answers
    assert set(answers["defence"]) == {"noisy"}
    told = answers.set_index(["attack", "knowledge"])
    assert {("none", "none"), ("worst-case", "all"), ("pgd", "adaptive")} <= set(told.index)
    shares = told[["right_once", "right_in_mean", "right_in_all"]]
    assert (shares["right_in_all"] <= shares["right_once"]).all()
    assert (shares.loc[("worst-case", "all")] <= shares.min() + 1e-12).all()
    findings = done.audited.result.findings
    wrong = {f.check for f in findings if (f.subject, f.severity) == ("noisy", "error")}
    assert wrong <= {"attack-breaks-undefended"}  # the bands stand too firm for this radius


def test_the_oblivious_attack_is_made_once_for_all_defences(done: Any) -> None:
    titles = [title for title in done.watching.computed if title.startswith("oblivious")]
    assert titles == ["oblivious fgsm", "oblivious pgd"]
    measures = done.audited.result.measures
    rows = measures[measures["knowledge"] == "oblivious"]
    assert set(rows["defence"]) == {"mean", "noisy", "twin"}
    # Of the bare model, and for each utterance: what it gets wrong a defence may not.
    assert set(rows[rows["attack"] == "pgd"]["gradients_per_utterance"]) == {15.0}
    assert set(rows["attacked"]) == {8}


def test_attacked_log_mels_are_turned_into_sound(done: Any) -> None:
    table = done.audited.result.realisability
    found = set(table[["defence", "knowledge"]].itertuples(index=False, name=None))
    names = ("mean", "noisy", "twin")
    assert found == {
        *((name, "adaptive") for name in ("undefended", *names)),
        *((name, "oblivious") for name in names),
    }
    shares = table[["uar_logmel", "uar_sound", "uar_clean_round_trip"]].to_numpy()
    assert ((shares >= 0) & (shares <= 1)).all()


def test_clips_are_played(done: Any) -> None:
    clips = done.audited.result.clips
    assert {clip.kind for clip in clips} == {"clean", "attacked"}
    assert all(clip.waveform.size == 6400 for clip in clips)


def test_the_card_says_all_that_repeats_the_audit(done: Any) -> None:
    card = json.loads((done.audited.paths.folder / "audit.json").read_text())["card"]
    threat = card["threat model"]
    assert threat["norm"] == "L-inf per element"
    assert set(threat["knowledge"]) == set(known("all"))
    assert card["radius"] == RADIUS
    assert card["radius in dB"] == pytest.approx(80 * RADIUS)
    assert card["median SNR of the attacked inputs, dB"]["lowest"] > 0
    assert card["attacks"]["adaptive pgd"]["steps"] == 15
    assert card["attacks"]["adaptive fgsm"]["strengths"][-1] == RADIUS
    assert card["utterances"]["split hash"] == done.audit.dataset.split
    assert card["utterances"]["count"] == 8
    assert card["utterances"]["drawn"].startswith("at most 8, ")
    assert card["seeds"] == {"audit": 0, "utterances": 0}
    assert set(card["systems"]) == {"undefended", "mean", "noisy", "twin"}
    assert set(card["surrogates"]) == {"other"}
    assert {"tier", "versions", "command", "batch size", "model"} <= set(card)


def test_the_card_says_which_class_each_output_was_taken_for(
    own: str, set_up: Any, tmp_path: Path
) -> None:
    names = ["sadness", "anger", "neu", "Happy"]
    audit = set_up(tmp_path, subject=load_system(f"{own}:Bands", labels=names))
    assert evaluation_card(audit, [], pd.DataFrame())["model"]["outputs"] == {
        "0": "sadness = sad",
        "1": "anger = angry",
        "2": "neu = neutral",
        "3": "Happy = happy",
    }


def test_labels_in_another_order_are_a_warning(own: str, set_up: Any, tmp_path: Path) -> None:
    names = ["happy", "angry", "neutral", "sad"]
    swapped = load_system(f"{own}:Bands", labels=names)
    result = run_audit(set_up(tmp_path, subject=swapped, knowledge=("black_box",))).result
    (finding,) = (each for each in result.findings if each.check == "clean-score")
    assert (finding.severity, finding.evidence["uar"]) == ("warning", 0.5)
    assert "in another order it would be 100.0 %" in finding.statement


def test_a_second_run_computes_nothing(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servax.audit.run.write_audit", lambda *_: done.audited.paths)
    watching = type(done.watching)()
    again = run_audit(done.audit, fail_under=1.0, watcher=watching)
    assert watching.computed == []
    assert watching.cached == done.watching.computed
    pd.testing.assert_frame_equal(again.result.records.frame, done.audited.result.records.frame)


def copied(done: Any, folder: Path) -> Any:
    """Return the audit of the audit that is done, in a copy of its folder."""
    shutil.copytree(done.audit.folder, folder)
    return replace(done.audit, folder=folder)


def test_a_killed_audit_goes_on_where_it_stopped(
    done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servax.audit.run.write_audit", lambda *_: done.audited.paths)
    audit = copied(done, tmp_path / "out")
    lost = {"clean input", "transfer mi-di-other", "bpda pgd on noisy", "adaptive pgd on noisy"}
    for each in plan(audit):
        if each.task.stage.name in lost:
            (each.task.stage.folder / "done.json").unlink()
    watching = type(done.watching)()
    again = run_audit(audit, fail_under=1.0, watcher=watching)
    assert set(watching.computed) == lost
    pd.testing.assert_frame_equal(again.result.records.frame, done.audited.result.records.frame)
    columns = done.audited.result.measures.columns.drop("seconds")
    pd.testing.assert_frame_equal(
        again.result.measures[columns], done.audited.result.measures[columns]
    )


def test_a_random_defence_gives_the_same_records_from_scratch(
    done: Any, set_up: Any, tmp_path: Path
) -> None:
    audit = set_up(tmp_path, defences=("noisy=gaussian-noise:0.02",), knowledge=known("adaptive"))
    torch.rand(3)  # the global random state has no part in it
    planned = [p for p in plan(audit) if p.kind in ("clean", "attack")]
    for each in reversed(planned[1:]):
        if each.systems == ("noisy",):
            planned[0].task.perform(type(done.watching)())
            each.task.perform(type(done.watching)())
            found = records.read(each.task.stage.folder / "records.parquet").frame
            rows = part(
                done.audited.result.records.frame,
                defence="noisy",
                attack=each.threat.name,
                knowledge=each.threat.knowledge,
            )
            pd.testing.assert_frame_equal(
                part(found)[rows.columns], rows, check_dtype=False, check_categorical=False
            )


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"seed": 1}, set()),
        ({"batch_size": 4}, set()),
        ({"gradients": "bfloat16"}, set()),
        ({"budget": Budget(radius=0.01)}, {"clean input"}),
    ],
)
def test_another_setting_is_another_stage(
    done: Any, set_up: Any, tmp_path: Path, changes: dict[str, Any], kept: set[str]
) -> None:
    first, other = (keys(set_up(tmp_path, **c)) for c in ({}, changes))
    assert first.keys() == other.keys()
    assert {name for name in first if first[name] == other[name]} == kept


def test_another_tier_keeps_what_both_do_alike(set_up: Any, tmp_path: Path) -> None:
    pytest.importorskip("foolbox")
    first, other = (keys(set_up(tmp_path, tier=tier)) for tier in ("smoke", "standard"))
    same = {name for name in first if other.get(name) == first[name]}
    assert same == {
        "clean input",
        "adaptive fgsm on undefended",
        "black box noise on undefended",
    }


def test_another_defence_changes_its_own_stages_and_those_that_all_share(
    set_up: Any, models: Mapping[str, Path], tmp_path: Path
) -> None:
    given = [("a=mean-filter:3", f"b={models['twin']}"), ("a=mean-filter:5", f"b={models['twin']}")]
    surrogates = (f"other={models['other']}",)
    first, other = (
        keys(set_up(tmp_path, defences=defences, surrogates=surrogates)) for defences in given
    )
    changed = {name for name in first if first[name] != other[name]}
    assert {name for name in changed if not name.endswith((" a", "on a"))} == {
        "clean input",
        "oblivious fgsm",
        "oblivious pgd",
        "transfer pgd-other",
        "transfer mi-di-other",
        "to sound and back: oblivious all",
        "what a notices",
        "is it still the same speech: undefended",
    } & set(first)
    assert all(name in changed for name in first if name.endswith(" a"))


def test_another_surrogate_leaves_what_is_not_its_own(
    set_up: Any, models: Mapping[str, Path], tmp_path: Path
) -> None:
    given = ((f"s={models['other']}",), (f"s={models['other']}", f"t={models['twin']}"))
    first, other = (keys(set_up(tmp_path, surrogates=each)) for each in given)
    assert first.items() <= other.items()
    assert other.keys() - first.keys() == {"transfer pgd-t", "transfer mi-di-t"}


def test_a_model_without_gradients_is_asked_only(set_up: Any, own: str, tmp_path: Path) -> None:
    shut = load_system(f"{own}:Shut")
    audit = set_up(tmp_path / "out", subject=shut)
    audited = run_audit(audit, fail_under=0.0)
    assert set(audited.result.records.frame["knowledge"]) == {"none", "black_box"}
    assert set(audited.result.card["threat model"]["knowledge"]) == {"black_box"}
    assert not audited.passed
    with pytest.raises(SettingError, match="black_box among them: Shut has no gradients"):
        set_up(tmp_path, subject=shut, knowledge=known("oblivious,adaptive"))


def test_two_audits_into_one_folder_are_refused(done: Any, tmp_path: Path) -> None:
    audit = copied(done, tmp_path / "out")
    with held(audit.folder), pytest.raises(ServaxError, match=r"is being run by .* wait until"):
        run_audit(audit)


def test_a_fast_audit_says_so_in_rows_title_and_card(set_up: Any, tmp_path: Path) -> None:
    audit = set_up(tmp_path, knowledge=("black_box",), gradients="bfloat16")
    result = run_audit(audit).result
    assert set(result.records.frame["target"]) == {"Bands (bfloat16 gradients)"}
    assert result.card["gradients"] == "bfloat16 (fast mode)"
    assert result.records.provenance["audit"]["gradients"] == "bfloat16"


def test_autoattack_and_chosen_classes_are_stages_of_the_full_tier(
    set_up: Any, tmp_path: Path
) -> None:
    pytest.importorskip("foolbox")
    audit = set_up(tmp_path / "out", defences=("noisy=gaussian-noise:0.02",), tier="full")
    planned = {each.task.stage.name: each for each in plan(audit)}
    wanted = [
        "clean input",
        "adaptive autoattack on noisy",
        "adaptive towards-angry on undefended",
        "adaptive towards-sad on noisy",
    ]
    for name in wanted:
        planned[name].task.perform(Watcher())
    results = {name: planned[name].task.stage.result() or {} for name in wanted}
    # The authors' 20 draws, whatever else a gradient of this defence takes.
    assert results["adaptive autoattack on noisy"]["draws"] == 20
    assert planned["adaptive autoattack on noisy"].threat.attack.version == "rand"
    assert planned["adaptive autoattack on undefended"].threat.attack.version == "standard"
    for name, goal in (("towards-angry on undefended", "angry"), ("towards-sad on noisy", "sad")):
        measures = results[f"adaptive {name}"]["measures"]
        assert measures["towards"] == goal
        assert 0 <= measures["success_rate"] <= 1
        assert 0 < measures["attacked"] < len(audit.dataset)
