"""The ledger's figures are those of the trials' records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = {
    cells[0].strip("` "): [cell.strip() for cell in cells]
    for line in (ROOT / "docs/research.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
    for cells in [line.strip("|").split("|")]
}
RECORDS = {path.stem: path for path in (ROOT / "results/research").glob("*.json")}


def test_every_trial_has_its_row():
    assert set(ROWS) == set(RECORDS)


@pytest.mark.parametrize("trial", sorted(RECORDS))
def test_a_row_tells_what_the_record_holds(trial):
    figures = json.loads(RECORDS[trial].read_text(encoding="utf-8"))["figures"]
    expected = [figures["clean"], figures["fgsm"], figures["pgd"], figures["adaptive"]["0.02"]]
    told = [float(cell) for cell in ROWS[trial][3:7]]
    assert told == pytest.approx(expected, abs=0.0501)
