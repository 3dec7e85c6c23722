"""``servax report RUN`` and ``servax report RUN_A RUN_B`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from servax.cli import main
from servax.cli.commands import arranged
from servax.cli.results import run_names
from servax.cli.run import Report
from servax.errors import SettingError
from servax.evaluation import records

LABELS = ["angry", "happy", "sad", "angry", "happy", "sad"]
CONDITIONS = [
    ("none", 0.0, "none"),
    ("fgsm", 0.003, "oblivious"),
    ("pgd", 3.0, "oblivious"),
    ("pgd", 3.0, "adaptive"),
]


def write_run(folder: Path, *, wrong: int, corpus: str = "made-up") -> Path:
    """Write a run of five speakers in which SSAD gets `wrong` utterances wrong."""
    parts = [
        pd.DataFrame(
            {
                "utterance": [f"u{i}" for i in range(6)],
                "speaker": list("stuvww"),
                "fold": 1,
                "seed": 0,
                "label": LABELS,
                "prediction": ["happy" if i < wrong else LABELS[i] for i in range(6)],
                "target": "vgg16",
                "defence": defence,
                "attack": attack,
                "strength": strength,
                "knowledge": knowledge,
                "gender": "unknown",
                "corpus": corpus,
            }
        )
        for defence in ("undefended", "ssad")
        for attack, strength, knowledge in CONDITIONS
    ]
    frame = pd.concat(parts, ignore_index=True)
    records.write(frame, folder / "records" / "fold-1.parquet", provenance={"scheme": "four"})
    return folder


def test_compares_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", wrong=3), write_run(tmp_path / "b", wrong=0)
    assert main(["report", str(a), str(b)]) == 0
    out, err = capsys.readouterr()
    assert "A: a" in out
    assert "B: b" in out
    assert "+33.3" in out  # angry 1/2 → 1, happy stays, sad 1/2 → 1
    page = a / "report-versus-b" / "report.html"
    assert err.strip() == f"report: {page}"
    assert page.is_file()


def test_a_file_on_either_side_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", wrong=1), write_run(tmp_path / "b", wrong=1)
    file = b / "records" / "fold-1.parquet"
    out = tmp_path / "out"
    for runs in ([str(a), str(file)], [str(file), str(a)], [str(file), "--versus", str(a)]):
        assert main(["report", *runs, "--json", "-o", str(out)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {told["a"], told["b"]} == {"a", "b/fold-1"}
        assert told["report"] == str(out / "report.html")
        row = next(r for r in told["rows"] if r["measure"] == "clean")
        assert row["difference_points"] == row["low_points"] == 0


def test_what_was_not_measured_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", wrong=1), tmp_path / "b"
    table = records.read(a / "records" / "fold-1.parquet")
    fewer = table.frame[table.frame["utterance"] != "u5"]
    records.write(fewer, b / "records" / "x.parquet", provenance=table.provenance)
    assert main(["report", str(a), str(b), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["low_points"] is None
    assert row["difference_points"] is not None


def test_one_run_still_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", wrong=2)
    assert main(["report", str(a)]) == 0
    assert "undefended" in capsys.readouterr().out
    assert (a / "report" / "tables" / "table-1.tex").is_file()
    told = pd.read_csv(a / "report" / "tables" / "table-1.csv")
    clean = told[(told["defence"] == "ssad") & (told["column"] == "clean")]
    assert clean["uar_percent"].item() == pytest.approx(100 * (0.5 + 1 + 1) / 3)


@pytest.mark.parametrize(
    ("runs", "code", "sentence"),
    [
        (
            ["a", "b", "c"],
            2,
            "servax: the number of runs is 3, expected one to report on, or two to compare.",
        ),
        (
            ["a", "nowhere"],
            2,
            "servax: nowhere: holds no records/*.parquet; expected the folder of a finished run, "
            "or one Parquet file of records.",
        ),
        (
            ["a", "other"],
            1,
            "servax: a and other cannot be compared: corpus is made-up and elsewhere; compare "
            "runs over the same utterances and classes.",
        ),
    ],
)
def test_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs: list[str],
    code: int,
    sentence: str,
) -> None:
    write_run(tmp_path / "a", wrong=1)
    write_run(tmp_path / "other", wrong=1, corpus="elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *runs]) == code
    assert capsys.readouterr().err.strip() == sentence
    assert not list(tmp_path.glob("a/report*"))


def test_a_second_run_is_found_among_options() -> None:
    assert arranged(Report, ["a", "--out", "b"]) == ["a", "--out", "b"]
    assert arranged(Report, ["--help"]) == ["--help"]
    expected = ["a", "--versus=c", "--out", "b", "--json=true"]
    assert arranged(Report, ["a", "--out", "b", "c", "--json"]) == expected
    assert arranged(Report, ["--out", "b", "a", "--json", "c"]) == expected
    with pytest.raises(SettingError, match=r"^the number of runs is 3, expected one to report on"):
        arranged(Report, ["a", "b", "c"])


def test_names_differ_as_far_as_paths_do() -> None:
    assert run_names(Path("x/a"), Path("y/b")) == ("a", "b")
    assert run_names(Path("x/a"), Path("y/a")) == ("x/a", "y/a")
    assert run_names(Path("a/records/fold-1.parquet"), Path("b")) == ("a/fold-1", "b")
