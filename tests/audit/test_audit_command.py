"""``servax audit`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servax.audit.material import gather
from servax.cli import main


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


def test_the_exit_code_says_whether_enough_is_left(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["servax", *command])
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out/report/audit.json").read_text(encoding="utf-8"))
    assert told == written
    assert told["card"]["command"].startswith("servax audit ")
    worst = 100 * told["systems"][0]["worst_case"]["uar"]
    assert worst < 100
    assert main([*command, "--fail-under", "100", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--knowledge", "oblivious,transfer"], "expected adaptive beside them"),
        (["--fail-under", "101"], "fail_under is 101.0, expected a UAR in percent"),
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


def test_a_model_of_waveforms_is_audited_whole(
    command: list[str],
    own: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(gather.__kwdefaults__, "seconds", 0.5)  # for the time a test may take
    command[1], command[command.index("--utterances") + 1] = f"{own}:Sound", "2"
    given = ["--defences", "low-pass:4000,soft=mp3:0.5", "--knowledge", "bpda,adaptive"]
    command[command.index("--radius") + 1] = "0.05"
    assert main([*command, *given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["realisability"] is None
    assert {clip["kind"] for clip in told["clips"]} == {"clean", "attacked"}
    assert {clip["seconds"] for clip in told["clips"]} == {0.5}
    found = {system["name"]: set(system["by_knowledge"]) for system in told["systems"]}
    assert found["low-pass-4000"] >= {"bpda", "adaptive"}
    # A codec has no gradient, so the identity stands for it in all that is done to it.
    assert "bpda" in found["soft"]
    assert "adaptive" not in found["soft"]
    page = (tmp_path / "out/report/report.html").read_text(encoding="utf-8")
    assert page.count("<audio") >= len(told["clips"])
