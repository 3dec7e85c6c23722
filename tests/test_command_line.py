"""The command line as a user meets it: exit codes, one sentence on stderr, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax.cli import main
from servax.cli.commands import arranged
from servax.cli.results import fitting
from servax.cli.run import Run
from servax.errors import PathError, unwritable
from servax.pretrained import names

REFUSALS = [
    (
        ["corpus", "info", "ravdes"],
        2,
        "servax: corpus is 'ravdes', expected one of cremad, emodb, fsdd, iemocap, nemo, ravdess, "
        "synthetic. Did you mean 'ravdess'?",
    ),
    (
        ["run", "nowhere.yaml"],
        2,
        "servax: nowhere.yaml: no such recipe; expected a YAML file such as recipes/*.yaml.",
    ),
    (
        ["purify", "in.wav"],
        2,
        "servax: out is None, expected a file or folder to write, given as -o OUT.",
    ),
    (
        ["purify", "in.wav", "-o", "out.wav"],
        2,
        "servax: in.wav: no such file or folder.",
    ),
    (
        ["purify", "in.wav", "-o", "out.wav", "--purifier", "nowhere"],
        2,
        "servax: in.wav: no such file or folder.",
    ),
    (
        ["corpus", "folds", "synthetic", "--groups", "many"],
        2,
        "servax: groups is 'many', expected one of 'speaker', 'text', 'official' or a whole "
        "number.",
    ),
    (["run"], 2, "servax: the following arguments are required: run.recipe."),
    (
        ["report", "nowhere"],
        2,
        "servax: nowhere: holds no records/*.parquet; expected the folder of a finished run, or "
        "one Parquet file of records.",
    ),
    (
        ["attack", "in.wav", "nowhere", "angry"],
        2,
        "servax: nowhere: no such folder; expected one written by servax train, a hub id such as "
        f"user/name, or a packaged recogniser ({', '.join(names('recogniser'))}).",
    ),
    *(
        (
            [*command, "--device", "tpu"],
            2,
            "servax: device is 'tpu', expected auto, cpu, cuda or cuda:N.",
        )
        for command in (
            ["train", "recogniser", "nowhere.csv"],
            ["audit", "crnn-ravdess", "--corpus", "nowhere.csv"],
            ["certify", "crnn-ravdess", "--corpus", "nowhere.csv"],
        )
    ),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSALS)
def test_refusals(
    arguments: list[str],
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.err.strip() == sentence
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


MISSING = [
    ["audit", "nowhere.onnx", "--corpus", "synthetic"],
    ["audit", "nowhere", "--corpus", "synthetic"],
    ["audit", "not_there_at_all:Model"],
    ["audit", "math:NoSuchName"],
    ["audit", "crnn-ravdess", "--corpus", "nowhere.csv"],
    ["audit", "crnn-ravdess", "--corpus", "ravdess", "--root", "nowhere"],
    ["calibrate", "nowhere.csv", "crnn-ravdess"],
    ["corpus", "info", "nowhere.csv"],
    ["export", "nowhere", "-o", "out.onnx"],
    ["purify", "nowhere.csv", "-o", "out"],
    ["report", "nowhere.parquet"],
    ["serve", "--token-file", "nowhere"],
    ["train", "recogniser", "nowhere.csv", "-o", "out"],
    ["train", "purifier", "crnn-ravdess", "nowhere", "-o", "out"],
]


@pytest.mark.parametrize("arguments", MISSING, ids=" ".join)
def test_what_is_not_there_is_bad_use(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1].startswith("servax: ")  # a bar may stand before it
    assert "Traceback" not in shown


def test_what_cannot_be_written_is_failed_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError) as told:
        (tmp_path / "file" / "folder").mkdir()
    assert PathError(tmp_path, unwritable(told.value)).exit_code == 1
    assert PathError(tmp_path, "holds something else").exit_code == 2
    out = str(tmp_path / "file" / "folds")
    assert main(["corpus", "folds", "synthetic", "-o", out]) == 1


def test_debug_shows_where_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.yaml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("--held-out=3", "--held_out=3"),
        ("a-b", "a-b"),
        ("--x=a-b", "--x=a-b"),
        ("--json", "--json=true"),
        ("--dry-run", "--dry_run=true"),
    ],
)
def test_options_are_spelled_with_dashes(given: str, known: str) -> None:
    assert arranged(Run, [given]) == [known]


def test_corpus_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["utterances"] for row in rows}["ravdess"] == 1440


def test_corpus_folds_are_shown_and_stored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = ["path,label,speaker"]
    rng = np.random.default_rng(0)
    for speaker in "abc":
        soundfile.write(tmp_path / f"{speaker}.wav", rng.normal(0, 0.1, 8000), 16_000)
        table.append(f"{speaker}.wav,happy,{speaker}")
    manifest = tmp_path / "own.csv"
    manifest.write_text("\n".join(table) + "\n")
    command = ["corpus", "folds", str(manifest), "--groups", "3", "--scheme", "native", "--json"]
    assert main([*command, "-o", str(tmp_path / "folds")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["test"] for row in rows] == ["a (1)", "b (1)", "c (1)"]
    assert len(list((tmp_path / "folds").glob("fold-*.json"))) == 3


GRID = ["defence", "clean", "FGSM .003", "FGSM mean", "PGD 3", "PGD mean", "adaptive PGD-30"]


@pytest.mark.parametrize(
    ("width", "shown"), [(None, GRID), (200, GRID), (80, [*GRID[:2], GRID[3], *GRID[5:]])]
)
def test_a_narrow_terminal_gets_the_columns_that_matter(
    width: int | None, shown: list[str]
) -> None:
    assert [GRID[i] for i in fitting(GRID, width)] == shown


def test_what_a_model_raises_is_told_and_a_fault_of_ours_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ZeroDivisionError("late")

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("servax.cli.corpus.List.__call__", fails)
    with pytest.raises(ZeroDivisionError):
        main(["corpus", "list"])
    error.add_note("the model was given inputs (1, 2)")
    assert main(["corpus", "list"]) == 1
    said = "servax: the model fails (ZeroDivisionError: late); the model was given inputs (1, 2)."
    assert said in capsys.readouterr().err
