"""Models that answer in numbers (arousal, dominance, valence), audited as what they are."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from servax.attacks import APGD, PGD, Square
from servax.cli import main
from servax.corpora import load
from servax.errors import CorpusError, ServaxError, SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.regression import (
    Nearness,
    Spoken,
    answers,
    attacked,
    concordance,
    measured,
    suited,
)
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat

MODEL = '''
import torch


class Space(torch.nn.Module):
    """Loudness, brightness and slope of a sound, squashed into (0, 1)."""

    inputs, sample_rate, seconds = "waveform", 16_000, 0.5
    labels = ["Arousal", "dominance", "valence"]

    def forward(self, x):
        power = torch.fft.rfft(x).abs().square()[:, 1:]
        thirds = torch.stack([part.mean(dim=1) for part in power.chunk(3, dim=1)], dim=1)
        return (0.2 * (thirds + 1e-6).log()).sigmoid()


class Steeper(Space):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.2))

    def forward(self, x):
        return self.scale * super().forward(x)


class Other(Steeper):
    labels = ["control", "activation", "pleasure"]


class Shut(Space):
    def forward(self, x):
        return super().forward(x.detach())


class Steps(torch.nn.Module):
    def forward(self, x):
        return (x * 4096).round() / 4096
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voices: Path) -> Path:
    """A folder with a model of three dimensions, and a manifest with the values of each voice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space_model.py").write_text(MODEL, encoding="utf-8")
    with voices.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    draws = np.random.default_rng(0)
    with (tmp_path / "values.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "arousal", "Dominance", "valence"])
        writer.writeheader()
        for row in rows:
            row["path"] = str(voices.parent / row["path"])
            values = dict(zip(writer.fieldnames[-3:], draws.uniform(size=3).round(3), strict=True))
            writer.writerow(row | values)
    return tmp_path


def audit(*more: str) -> int:
    command = ["audit", "space_model:Space", "--groups", "3", "--tier", "smoke", "--out", "out"]
    return main([*command, "--snr", "40,30", *more])


def test_a_model_of_numbers_gets_no_certificate(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", "space_model:Space", "--corpus", "values.csv", "--out", "out"]) == 2
    assert "expected a model with a head that classifies" in capsys.readouterr().err
    assert not (place / "out").exists()


def lin(truth: np.ndarray, answers: np.ndarray) -> float:
    """Lin's coefficient as 1 less the expected squared difference over that of independent ones."""
    spread = truth.var() + answers.var() + (truth.mean() - answers.mean()) ** 2
    return 1.0 - float(np.mean((truth - answers) ** 2) / spread)


def test_errors_rise_against_what_a_manifest_says(place: Path) -> None:
    assert audit("--corpus", "values.csv", "--utterances", "4", "--defences", "low-pass:4000") == 0
    frame = pd.read_parquet("out/records/answers.parquet")
    told = json.loads(Path("out/report/audit.json").read_text(encoding="utf-8"))
    names = ["Arousal", "dominance", "valence"]
    assert told["dimensions"] == names
    assert told["own answers stand for the truth"] is False
    manifest = pd.read_csv("values.csv").set_index("path")
    found = pd.DataFrame(told["measures"])
    conditions = found[found["attack"] != "worst-case"]
    for row in conditions.to_dict("records"):
        part = frame
        for key in ("defence", "attack", "knowledge", "strength"):
            part = part[part[key] == row[key]]
        assert len(part) == 4
        truth = manifest.loc[part["utterance"], ["arousal", "Dominance", "valence"]].to_numpy()
        given = part[names].to_numpy()
        assert row["squared error"] == pytest.approx(np.mean((truth - given) ** 2), rel=1e-5)
        for i, name in enumerate(names):
            assert row[f"CCC {name}"] == pytest.approx(lin(truth[:, i], given[:, i]), abs=1e-4)
    error = found.set_index(["defence", "attack", "knowledge", "strength"])["squared error"]
    bare = error["undefended"]
    pgd = [bare["pgd", "adaptive", size] for size in (0.01, 10**-1.5)]
    assert bare["none", "none", 0.0] < pgd[0] < pgd[1] <= bare["worst-case"].item()
    assert bare["noise", "black_box", 10**-1.5] < pgd[1]
    behind = error["low-pass-4000"]
    assert behind["none", "none", 0.0] < behind["worst-case"].item()
    assert set(behind.index.get_level_values("knowledge")) >= {"oblivious", "bpda", "adaptive"}
    assert list(found["attack"])[-1] == "worst-case"
    assert "concordance correlation" in Path("out/report/report.md").read_text(encoding="utf-8")


def test_its_own_answers_stand_for_the_truth(
    place: Path, voices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit("--corpus", str(voices), "--utterances", "2") == 0
    told = capsys.readouterr()
    assert "what the bare model answers without attack stands in" in told.err + told.out
    found = pd.DataFrame(json.loads(Path("out/report/audit.json").read_text())["measures"])
    clean = found[found["attack"] == "none"].iloc[0]
    assert clean["squared error"] == 0
    assert clean["CCC valence"] == pytest.approx(1)
    assert found[found["attack"] == "pgd"]["squared error"].min() > 1e-6


@pytest.mark.parametrize("attack", [PGD, APGD, Square])
def test_attacks_raise_the_error_as_far_as_a_line_allows(attack: Any) -> None:
    """Of w x + b in an L-inf ball the largest squared error has a closed form."""
    generator = torch.Generator().manual_seed(0)
    line = nn.Linear(6, 1).double()
    x = torch.rand(1, 6, generator=generator).double() * 0.2 + 0.4
    with torch.no_grad():
        line.weight.copy_(torch.randn(1, 6, generator=generator))
        truth = line(x)[0] - 0.3
    given: dict[str, Any] = {"epsilon": 0.05}
    given |= {"queries": 300} if attack is Square else {"steps": 20}
    moved = attack(**given)(
        Nearness(line, truth), x, torch.zeros(1, dtype=torch.int64), generator=generator
    )
    with torch.no_grad():
        found = float((line(moved) - truth).square().mean())
        highest = float((0.3 + 0.05 * line.weight.abs().sum()) ** 2)
    assert found == pytest.approx(highest, rel=0.02)


@pytest.mark.parametrize("attack", [PGD(epsilon=0.05, step=0.01), APGD(epsilon=0.05, steps=20)])
def test_an_error_of_hundreds_rises_to_its_end_in_float32(attack: Any) -> None:
    """As cross-entropy the rise is below what float32 can tell from log 2."""
    generator = torch.Generator().manual_seed(0)
    line = nn.Linear(6, 1)
    x = torch.rand(1, 6, generator=generator) * 0.2 + 0.4
    with torch.no_grad():
        line.weight.copy_(torch.randn(1, 6, generator=generator))
        truth = line(x)[0] - 300.0
    bare = System(name="undefended", model=line)
    (threat,) = suited([Threat("a", "adaptive", attack)], bare, bare)
    (moved,) = (
        found
        for _, found in threat.moved(
            Nearness(line, truth), x, torch.zeros(1, dtype=torch.int64), generator=generator
        )
    )
    with torch.no_grad():
        rise = float((line(moved) - truth).abs()) - 300.0
        highest = float(0.05 * line.weight.abs().sum())
    assert rise == pytest.approx(highest, abs=2e-3)


def planned(capsys: pytest.CaptureFixture[str], *more: str) -> set[str]:
    """Return the names of the stages that an audit would do."""
    capsys.readouterr()
    assert audit("--corpus", "values.csv", "--utterances", "1", "--dry-run", "--json", *more) == 0
    return {each["stage"] for each in json.loads(capsys.readouterr().out)["stages"]}


def test_a_defence_takes_no_attack_from_the_bare_model(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One PGD serves both attackers; APGD is the knowing one's alone.
    quick = planned(capsys, "--defences", "low-pass:4000")
    assert {"oblivious pgd on undefended", "adaptive apgd-ce on undefended"} <= quick
    assert "adaptive pgd on undefended" not in quick
    assert {"adaptive pgd on undefended", "adaptive apgd-ce on undefended"} <= planned(capsys)
    asked = planned(capsys, "--knowledge", "black_box,oblivious")
    assert "oblivious pgd on undefended" in asked


def test_weaker_oblivious_attacks_stand_in_for_no_adaptive_one(
    place: Path,
) -> None:
    more = ("--knowledge", "oblivious,adaptive", "--defences", "low-pass:4000")
    command = ["audit", "space_model:Space", "--groups", "3", "--out", "out", "--radius", "0.001"]
    given = ["--corpus", "values.csv", "--utterances", "1", *more]
    assert main([*command, *given]) == 0
    frame = pd.read_parquet("out/records/answers.parquet")
    bare = frame[(frame["defence"] == "undefended") & (frame["attack"] == "apgd-ce")]
    assert len(bare) == bare["strength"].nunique() == 3
    assert set(bare["knowledge"]) == {"adaptive"}


def test_a_model_without_gradients_is_asked_or_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["audit", "space_model:Shut", "--groups", "3", "--corpus", "values.csv"]
    assert main([*command, "--knowledge", "adaptive", "--out", "out"]) == 2
    assert "black_box among them: Shut has no gradients" in capsys.readouterr().err


def test_a_defence_without_gradients_is_attacked_by_bpda(place: Path) -> None:
    assert (
        audit("--corpus", "values.csv", "--utterances", "1", "--defences", "space_model:Steps") == 4
    )
    told = json.loads(Path("out/report/audit.json").read_text(encoding="utf-8"))
    found = pd.DataFrame(told["measures"])
    behind = found[found["defence"] == "Steps"].set_index(["attack", "knowledge"])
    error = behind["squared error"]
    assert "adaptive" not in behind.index.get_level_values("knowledge")
    assert error["pgd", "bpda"].max() > error["noise", "black_box"].max()
    report = Path("out/report/report.md").read_text(encoding="utf-8")
    assert "No exact white-box attack was possible on Steps, since its gradient is zero" in report


@pytest.mark.parametrize(
    "budget", ["--snr 85,80", "--norm linf --radius 1e-6", "--norm l2 --radius 1e-5"]
)
def test_an_audit_that_attacked_nobody_says_so(place: Path, voices: Path, budget: str) -> None:
    given = ["audit", "space_model:Space", "--groups", "3", "--tier", "smoke", "--out", "out"]
    given += ["--corpus", "values.csv", "--utterances", "2"]
    text = Path("values.csv").read_text(encoding="utf-8")
    for file in voices.parent.glob("*.wav"):  # far quieter than a ratio of 80 dB to one step
        sound, rate = soundfile.read(file)
        soundfile.write(place / file.name, sound / 100, rate)
    Path("values.csv").write_text(text.replace(f"{voices.parent}/", ""), encoding="utf-8")
    assert main([*given, *budget.split()]) == 4
    told = json.loads(Path("out/report/audit.json").read_text(encoding="utf-8"))
    severities = {each["check"]: each["severity"] for each in told["findings"]}
    assert severities == {"white-box": "passed", "attacks-move": "error"}
    assert "moves 0 of 2 utterances" in Path("out/report/report.md").read_text(encoding="utf-8")


def test_an_answer_that_is_no_number_is_refused_with_its_utterance() -> None:
    model = nn.Identity()
    x = torch.ones(20, 2)
    x[17, 1] = torch.inf
    names = [f"u{number}" for number in range(20)]
    with pytest.raises(ServaxError, match="utterance u17 is NaN or infinite"):
        answers(System(name="m", model=model), x, names=names)
    x[17, 1] = torch.nan
    with pytest.raises(ServaxError, match="expected finite numbers"):
        answers(System(name="m", model=model), x, names=names)


@pytest.mark.parametrize(
    ("name", "value"), [("gradients", "bfloat16"), ("sounds", "3"), ("speech", "9")]
)
def test_what_an_audit_of_numbers_would_ignore_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    assert audit("--corpus", "values.csv", f"--{name}", value) == 2
    assert f"{name} is" in (told := capsys.readouterr().err)
    assert "Space answers in numbers" in told
    assert not Path("out").exists()


def test_concordance_is_that_of_the_definition() -> None:
    draws = np.random.default_rng(1)
    truth, answers = draws.normal(size=50), draws.normal(2, 3, size=50)
    assert concordance(truth, answers) == pytest.approx(lin(truth, answers))
    assert concordance(truth, truth) == pytest.approx(1)
    assert np.isnan(concordance(np.ones(3), np.ones(3)))


def test_the_worst_case_takes_the_largest_error_of_each_utterance() -> None:
    rows = [("a", "none", 1.0), ("b", "none", 2.0), ("a", "pgd", 4.0), ("b", "pgd", 2.5)]
    frame = pd.DataFrame(rows, columns=["utterance", "attack", "valence"])
    frame = frame.assign(defence="undefended", knowledge="k", strength=0.0, speaker="s")
    found = measured(frame.assign(**{"true valence": 3.0}), ["valence"]).set_index("attack")
    assert found["squared error"].to_dict() == {"none": 2.5, "pgd": 0.625, "worst-case": 2.5}
    assert found["moved valence"].to_dict() == {"none": 0.0, "pgd": 1.75, "worst-case": 0.0}
    assert found["squared error, low"].isna().all()


def test_an_interval_is_that_of_whole_speakers() -> None:
    """Five speakers of one error each: the mean of five drawn, 3,125 draws of equal chance."""
    errors = np.array([0.0, 1.0, 4.0, 9.0, 16.0])
    frame = pd.DataFrame({"speaker": list("abcde"), "utterance": list("abcde")})
    frame = frame.assign(defence="undefended", attack="none", knowledge="none", strength=0.0)
    frame = frame.assign(**{"true valence": 1.0, "valence": 1.0 + np.sqrt(errors)})
    twice = pd.concat([frame, frame.assign(utterance=[f"{each}2" for each in "abcde"])])
    found = measured(twice, ["valence"]).iloc[0]
    means = [np.mean(drawn) for drawn in itertools.product(errors, repeat=5)]
    assert found["squared error, low"] == pytest.approx(np.quantile(means, 0.025), abs=0.4)
    assert found["squared error, high"] == pytest.approx(np.quantile(means, 0.975), abs=0.4)


def test_the_interval_of_a_concordance_is_that_of_whole_speakers() -> None:
    draws = np.random.default_rng(2)
    speakers = np.repeat(list("abcde"), 4)
    truth = draws.normal(size=20)
    given = truth + draws.normal(size=20) * np.repeat([0.1, 0.5, 1.0, 2.0, 4.0], 4)
    frame = pd.DataFrame({"speaker": speakers, "utterance": np.arange(20)})
    frame = frame.assign(defence="undefended", attack="none", knowledge="none", strength=0.0)
    found = measured(frame.assign(**{"true valence": truth, "valence": given}), ["valence"]).iloc[0]
    rows = {name: np.flatnonzero(speakers == name) for name in "abcde"}
    each = [
        lin(truth[taken], given[taken])
        for drawn in itertools.product("abcde", repeat=5)
        for taken in [np.concatenate([rows[name] for name in drawn])]
    ]
    assert found["CCC valence, low"] == pytest.approx(np.quantile(each, 0.025), abs=0.06)
    assert found["CCC valence, high"] == pytest.approx(np.quantile(each, 0.975), abs=0.02)


def test_a_report_is_written_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--corpus", "values.csv", "--defences", "low-pass:4000")
    assert audit(*given, "--knowledge", "black_box,adaptive") == 0
    before = {path.name: path.read_bytes() for path in Path("out/report").rglob("*.*")}
    assert b"over speakers" in before["report.md"]
    told = capsys.readouterr()
    assert main(["report", "out"]) == 0
    again = {path.name: path.read_bytes() for path in Path("out/report-again").rglob("*.*")}
    assert again == before
    after = capsys.readouterr()
    assert after.out == told.out
    assert main(["report", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(before["audit.json"])
    assert main(["report", "out", "out"]) == 2
    assert "out: is an audit of a model that answers in numbers" in capsys.readouterr().err
    Path("out/report/audit.json").write_text('{"regression": true}', encoding="utf-8")
    assert main(["report", "out"]) == 2
    assert "cannot be read as the audit.json of an audit" in capsys.readouterr().err


def test_a_dimension_is_pushed_up_or_down_as_far_as_a_line_allows(voices: Path) -> None:
    """Of w x + b in an L-inf ball the highest and the lowest answer have a closed form."""
    corpus = load(str(voices)).subset(np.arange(48) < 3)
    generator = torch.Generator().manual_seed(0)
    line = nn.Linear(6, 2)
    x = torch.rand(3, 6, generator=generator) * 0.2 + 0.4
    with torch.no_grad():
        line.weight.copy_(torch.randn(2, 6, generator=generator))
        clean = line(x)
    bare = System(name="undefended", model=line.eval())
    names = ("arousal", "valence")
    heard = Spoken(corpus=corpus, x=x, truth=clean + 300.0, names=names)
    attack = APGD(epsilon=0.05, steps=20, targeted=True)
    towards = Threat("towards-valence", "adaptive", attack, towards="valence")
    up, down = suited([towards], bare, bare)
    for threat, sign, name in ((up, 1, "towards-valence-up"), (down, -1, "towards-valence-down")):
        rows = attacked(threat, bare, [bare], heard)
        assert set(rows["attack"]) == {name}
        gone = rows["valence"].to_numpy() - clean[:, 1].numpy()
        with torch.no_grad():
            furthest = sign * 0.05 * float(line.weight[1].abs().sum())
        assert gone == pytest.approx(np.full(3, furthest), abs=2e-3)


def test_a_surrogate_lends_its_gradients(place: Path) -> None:
    more = ("--defences", "low-pass:4000", "--surrogates", "other=space_model:Steeper")
    assert audit("--corpus", "values.csv", "--utterances", "3", *more) == 0
    frame = pd.read_parquet("out/records/answers.parquet")
    carried = frame[frame["knowledge"] == "transfer"]
    assert set(carried["attack"]) == {"pgd-other"}
    assert set(carried["defence"]) == {"undefended", "low-pass-4000"}
    found = pd.DataFrame(json.loads(Path("out/report/audit.json").read_text())["measures"])
    bare = found[found["defence"] == "undefended"].set_index("attack")["squared error"]
    # A twin but for a scale: what raises its error raises that of the model.
    assert bare["pgd-other"].max() > bare["noise"].max()
    assert audit("--corpus", "values.csv", "--surrogates", "space_model:Other") == 2


def test_an_audit_pushes_each_dimension(place: Path) -> None:
    given = [
        "audit",
        "space_model:Space",
        "--groups",
        "3",
        "--corpus",
        "values.csv",
        "--out",
        "out",
    ]
    given += ["--utterances", "2", "--radius", "0.001", "--knowledge", "adaptive"]
    assert main(given) == 0
    told = json.loads(Path("out/report/audit.json").read_text(encoding="utf-8"))
    found = pd.DataFrame(told["measures"]).set_index("attack")
    for name in ("Arousal", "dominance", "valence"):
        up, down = (found.loc[f"towards-{name}-{way}", f"moved {name}"] for way in ("up", "down"))
        assert up > 1e-4
        assert down < -1e-4
        assert up >= found.loc["noise", f"moved {name}"] >= down
    page = Path("out/report/report.md").read_text(encoding="utf-8")
    assert "moved valence" in page
    assert "There is no interval: " in page


def test_what_a_model_of_numbers_has_not(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("--corpus", "values.csv", "--fail-under", "40") == 2
    assert (
        "fail_under is '40', expected nothing: Space answers in numbers" in capsys.readouterr().err
    )
    text = Path("values.csv").read_text(encoding="utf-8").replace("Dominance", "other")
    Path("values.csv").write_text(text, encoding="utf-8")
    assert audit("--corpus", "values.csv") == 2
    assert "lacks the columns dominance, expected all or none" in capsys.readouterr().err


def test_numbers_that_are_none(place: Path) -> None:
    from servax.corpora.manifest import read_values

    path = Path("values.csv")
    assert read_values(path, ["speed"]) is None
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].rpartition(",")[0] + ",high"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(CorpusError, match="line 3 has a cell that is no number"):
        read_values(path, ["arousal", "valence"])


def test_a_classifier_of_dimensions_has_other_names(place: Path) -> None:
    system = load_system("space_model:Space")
    assert system.regression
    with pytest.raises(SettingError, match="3 names"):
        load_system("space_model:Space", labels=["arousal", "valence"])
    assert not load_system("space_model:Space", labels=["angry", "happy", "sad"]).regression
