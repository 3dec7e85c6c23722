"""``servax audit`` as a user meets it."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import soundfile

from servax.audit.sounds import of_utterance
from servax.cli import main
from servax.evaluation.records import read as read_records
from servax.report.audit import write_audit


@pytest.fixture
def command(own: str, voices: Path, tmp_path: Path) -> list[str]:
    return [
        *("audit", f"{own}:Bands", "--corpus", str(voices), "--tier", "smoke"),
        *("--groups", "3", "--utterances", "4", "--radius", "0.06"),
        *("--out", str(tmp_path / "out")),
    ]


def test_a_dry_run_attacks_nothing_and_writes_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("servax.cli.auditing.run_audit", None)
    given = ["--defences", "mean-filter:3", "--dry-run"]
    assert main([*command, *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"stage", "seconds_at_most", "done"} == set(told["stages"][0])
    assert told["seconds_at_most"] > 0
    assert not any(stage["done"] for stage in told["stages"])
    assert main([*command, *given]) == 0
    assert "adaptive pgd on mean-filter-3" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "more", "count"),
    [("Sound", (), 3), ("Sound", ("--utterances", "5"), 5), ("Bands", (), 16)],
)
def test_a_smoke_audit_on_sound_hears_few_unless_told(
    own: str,
    voices: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    more: tuple[str, ...],
    count: int,
) -> None:
    monkeypatch.setattr("servax.cli.auditing.SMOKE_UTTERANCES", 3)
    given = ["audit", f"{own}:{model}", "--corpus", str(voices), "--groups", "3", *more]
    given += ["--out", str(tmp_path / "out"), "--speech", "0", "--sounds", "0", "--dry-run"]
    assert main([*given, "--tier", "smoke"]) == 0
    assert f"\n{count} utterances, 1 systems" in "\n" + capsys.readouterr().err


@pytest.mark.parametrize(
    "budget", ["--snr 85,80", "--norm linf --radius 1e-6", "--norm l2 --radius 1e-5"]
)
def test_a_budget_that_16_bits_take_back_does_not_pass(
    budget: str,
    command: list[str],
    own: str,
    voices: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command[1] = f"{own}:Sound"
    at = command.index("--radius")
    command[at : at + 2] = budget.split()
    for file in voices.parent.glob("*.wav"):  # far quieter than a ratio of 80 dB to one step
        sound, rate = soundfile.read(file)
        soundfile.write(tmp_path / file.name, sound / 100, rate)
    command[command.index("--corpus") + 1] = str(shutil.copy(voices, tmp_path))
    given = ["--seconds", "0.5", "--speech", "0", "--sounds", "0", "--json"]
    assert main([*command, *given, "--fail-under", "10"]) == 4
    told = json.loads(capsys.readouterr().out)
    (found,) = (each for each in told["findings"] if each["check"] == "attacks-move")
    assert (found["severity"], found["evidence"]["moved"]) == ("error", 0)
    assert "moves 0 of 4 utterances" in found["statement"]
    assert told["passed"] is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "Refusing",
            "the model fails (ValueError: refused); the model was given inputs (4, 1, 32, ",
        ),
        ("Dividing", "a trial of Dividing: the model's output for input 0 is NaN or infinite"),
    ],
)
def test_a_defence_that_fails_is_named(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    said: str,
) -> None:
    (tmp_path / "failing_fronts.py").write_text(
        "from torch import nn\n\n\n"
        "class Refusing(nn.Module):\n    def forward(self, x):\n"
        "        if len(x) == 4:\n            raise ValueError('refused')\n        return x\n\n\n"
        "class Dividing(nn.Module):\n    def forward(self, x):\n"
        "        return x / (x.mean() * (x.amax() < 0))\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main([*command, "--defences", f"mean-filter:3,failing_fronts:{name}"]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert f"a trial of {name}" in told
    assert not (tmp_path / "out").exists()


def test_an_estimate_holds_what_is_not_attacking(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slowly(*parts: Any) -> None:
        time.sleep(0.4)
        write_audit(*parts)

    def heard(*parts: Any) -> Any:
        time.sleep(0.3)
        return of_utterance(*parts)

    monkeypatch.setattr("servax.audit.estimates.write_audit", slowly)
    monkeypatch.setattr("servax.audit.estimates.sounds.of_utterance", heard)
    found = {}
    for sounds in (0, 10):
        assert main([*command, "--dry-run", "--sounds", str(sounds), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        found[sounds] = {part["stage"]: part["seconds_at_most"] for part in told["stages"]}
        assert told["seconds_at_most"] == pytest.approx(sum(found[sounds].values()), abs=2)
    first, *_, last = found[0]
    assert first == "models and recordings"
    assert found[0][first] > 0
    assert found[0][last] >= 0.4
    assert found[10][last] >= 0.4 + 10 * 0.3
    way = next(seconds for name, seconds in found[0].items() if name.startswith("to sound"))
    assert way >= 2 * 4 * 0.3  # attacked and clean, four utterances
    assert not (tmp_path / "out").exists()


def test_the_exit_code_says_whether_enough_is_left(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["servax", *command])
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out/report/audit.json").read_text(encoding="utf-8"))
    assert told == written
    assert told["passed"] is None
    assert told["card"]["command"].startswith("servax audit ")
    worst = 100 * told["systems"][0]["worst_case"]["uar"]
    lost = 100 * told["systems"][0]["clean"]["uar"] - worst
    assert worst < 100
    for asked, code in (
        ("100", 3),
        (f"{worst:.6f}", 0),
        (f"lost:{lost + 0.01:.6f}", 0),
        (f"lost:{lost - 0.01:.6f}", 3),
    ):
        assert main([*command, "--fail-under", asked, "--json"]) == code
        assert json.loads(capsys.readouterr().out)["passed"] is (code == 0)
    cases = ET.parse(tmp_path / "out/report/audit.junit.xml").getroot()
    assert [case.find("failure") is not None for case in cases][-1]


@pytest.mark.parametrize("asked", [[], ["--fail-under", "0"], ["--fail-under", "100"]])
def test_an_error_of_a_check_is_an_exit_code_of_its_own(
    command: list[str],
    own: str,
    asked: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "flattened.py").write_text(
        f"import {own}\n\n\nclass Flat({own}.Bands):\n"
        "    def forward(self, x):\n        return super().forward(x).softmax(1)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command[1] = "flattened:Flat"
    command[command.index("--utterances") + 1] = "2"
    assert main([*command, *asked, "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert "error" in {finding["severity"] for finding in told["findings"]}
    assert told["passed"] is (False if asked else None)


def test_lists_are_taken_with_spaces_and_too_few_speakers_are_told(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--defences", "mean-filter:3", "quantise:4", "--dry-run"]
    assert main([*command, *given]) == 0
    out = capsys.readouterr().out
    assert "on mean-filter-3" in out
    assert "on quantise-4" in out
    assert main([*command, "--fail-under", "lower:10"]) == 2
    told = capsys.readouterr().err
    assert "expected 40 or lost:10. There is no interval: 1 speaker says too little" in told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--knowledge", "oblivious,transfer"], "expected adaptive beside them"),
        (["--fail-under", "101"], "fail_under is 101.0, expected a UAR in percent"),
        (["--fail-under", "higher:3"], "fail_under is 'higher:3', expected a UAR in percent"),
        (["--init", "width"], "init is 'width', expected NAME=VALUE with commas between"),
        (["--init", "width=3"], "cannot be made from the arguments {'width': 3}"),
        (["--defences", "mean-filter"], "expected a number too: mean-filter:3, an odd size"),
        (["--held-out", "4"], "held_out is 4, expected a group from 1 to 3"),
        (["--utterances", "0"], "utterances is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--radius", "0"], "radius is 0.0, expected a finite number above 0"),
        (["--defences", "mean-fliter:3"], "Did you mean 'mean-filter'?"),
        (["--labels", "a,b"], "labels"),
        (["--surrogates", "nowhere"], "model is 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    command: list[str],
    options: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, *options]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert sentence in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "strengths"),
    [
        (["--radius", "0.05"], (0.05,)),
        (["--snr", "30,10"], (10**-1.5, 10**-0.5)),
    ],
)
def test_a_model_of_waveforms_is_audited_whole(
    command: list[str],
    own: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    budget: list[str],
    strengths: tuple[float, ...],
) -> None:
    command[1], command[command.index("--utterances") + 1] = f"{own}:Sound", "2"
    at = command.index("--radius")
    command[at : at + 2] = budget
    given = ["--defences", "low-pass:4000,soft=mp3:0.5", "--knowledge", "bpda,adaptive"]
    given += ["--seconds", "0.5"]  # for the time a test may take
    assert main([*command, *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["realisability"] is None
    heard = {row["defence"] for row in told["speech"] if row["knowledge"] in ("adaptive", "bpda")}
    assert heard == {"undefended", "low-pass-4000", "soft"}
    assert all(math.isfinite(r["snr_db"]) for r in told["speech"] if r["defence"] != "undefended")
    assert {clip["kind"] for clip in told["clips"]} == {"clean", "attacked"}
    assert {clip["seconds"] for clip in told["clips"]} == {0.5}
    found = {system["name"]: set(system["by_knowledge"]) for system in told["systems"]}
    assert found["low-pass-4000"] >= {"bpda", "adaptive"}
    # A codec has no gradient, so the identity stands for it in all that is done to it.
    assert "bpda" in found["soft"]
    assert "adaptive" not in found["soft"]
    page = (tmp_path / "out/report/report.html").read_text(encoding="utf-8")
    assert page.count("<audio") >= len(told["clips"])
    frame = read_records(tmp_path / "out/records/audit.parquet").frame
    found_at = sorted(set(frame[frame["attack"] == "pgd"]["strength"]))
    assert found_at == pytest.approx(strengths)
    if budget[0] == "--snr":
        assert "a signal-to-noise ratio of 10\N{NO-BREAK SPACE}dB" in page
