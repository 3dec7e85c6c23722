"""The ledgers' figures are those of the trials' records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/research.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of each trial's row below a heading, by the trial's name."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row for row in cells}


def records(folder: str) -> dict[str, dict[str, Any]]:
    """Return the records of a folder below results, by the trial's name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "results" / folder).glob("*.json")
    }


ROWS, RECORDS = rows("The ledger"), records("research")
SOUND_ROWS, SOUND_RECORDS = rows("Before a speech encoder"), records("research/sound")


def test_every_trial_has_its_row():
    assert set(ROWS) == set(RECORDS)
    assert set(SOUND_ROWS) == set(SOUND_RECORDS)


@pytest.mark.parametrize("trial", sorted(RECORDS))
def test_a_row_tells_what_the_record_holds(trial):
    figures = RECORDS[trial]["figures"]
    expected = [figures["clean"], figures["fgsm"], figures["pgd"], figures["adaptive"]["0.02"]]
    told = [float(cell) for cell in ROWS[trial][3:7]]
    assert told == pytest.approx(expected, abs=0.0501)


@pytest.mark.parametrize("trial", sorted(SOUND_RECORDS))
def test_a_row_before_an_encoder_tells_what_the_record_holds(trial):
    record, row = SOUND_RECORDS[trial], SOUND_ROWS[trial]
    apart = [record["validation"]["statistics"], record["validation"]["stft"]]
    assert [float(cell) for cell in row[3:5]] == pytest.approx(apart, abs=0.0051)
    clean = record["figures"].get("clean")
    if clean and clean["utterances"] == 112:
        expected = [clean["uar_1"], clean["uar_8"], clean["output_snr_db"]]
        assert [float(cell) for cell in row[5:8]] == pytest.approx(expected, abs=0.0501)
    else:
        assert row[5:8] == ["–"] * 3
    if attacked := record["figures"].get("adaptive-50-40x4"):
        told = re.fullmatch(r"(\d) of (\d), ([\d.]+)", row[8])
        assert told
        right, of, probability = map(float, told.groups())
        assert of == attacked["utterances"]
        assert right / of == pytest.approx(attacked["uar_8"] / 100)  # one utterance a class
        assert probability == pytest.approx(attacked["probability"], abs=0.0501)
    else:
        assert row[8] == "–"


LIMITS = records("research/limits")


@pytest.mark.parametrize("question", sorted(LIMITS))
def test_what_limits_a_purifier_is_told_as_the_record_holds_it(question):
    table = PAGE.split(f"<!-- {question}: begin -->")[1].split(f"<!-- {question}: end -->")[0]
    told = [re.findall(r"[\d.]+", line.split("|", 2)[2]) for line in table.strip().splitlines()[2:]]
    held = [
        [row["rms"], row["probability"], row["uar"], *row["speakers"]]
        for row in LIMITS[question]["rows"]
    ]
    assert [[float(number) for number in row] for row in told] == held
