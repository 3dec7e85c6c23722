"""The tables of docs/tasks.md are what records and figures say, recomputed another way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \|(.*)\|$", PAGE, flags=re.MULTILINE)
ACROSS = re.findall(r"^\| (\w+) \| ([\w ]+) \|(.*)\|$", PAGE, flags=re.MULTILINE)
TABLE_STEPS = [3, 6, 9, 12, 15]


def uar(rows: pd.DataFrame) -> float:
    return 100 * float(balanced_accuracy_score(rows["label"], rows["prediction"]))


def shown(cells: str) -> list[str]:
    return [cell.strip() for cell in cells.split("|")]


@pytest.mark.parametrize(("recipe", "defence", "cells"), ROWS)
def test_a_row_is_what_its_records_say(recipe: str, defence: str, cells: str) -> None:
    folder = ROOT / "results" / recipe / "records"
    if "not measured" in cells:
        assert not folder.exists()
        return
    whole = pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("fold-*.parquet")))
    rows = whole[whole["defence"] == defence]
    known = rows[rows["knowledge"].isin(["none", "oblivious"])]
    if defence == "undefended":  # whoever attacks the bare model knows all of it
        known = rows
    fgsm = known[known["attack"] == "fgsm"].groupby("strength")
    pgd = known[(known["attack"] == "pgd") & known["strength"].isin(TABLE_STEPS)]
    last = rows[(rows["knowledge"] == "adaptive") & (rows["attack"] == "pgd")]
    found = [
        uar(known[known["attack"] == "none"]),
        sum(uar(part) for _, part in fgsm) / len(fgsm),
        sum(uar(part) for _, part in pgd.groupby("strength")) / len(TABLE_STEPS),
        uar(last[last["strength"] == 15]),
    ]
    assert shown(cells) == [f"{value:.1f}" for value in found]


def test_every_recipe_has_rows_for_all_that_was_measured() -> None:
    for recipe in sorted({recipe for recipe, _, _ in ROWS}):
        tables = sorted((ROOT / "results" / recipe / "records").glob("fold-*.parquet"))
        defences = {name for path in tables for name in pd.read_parquet(path)["defence"]}
        told = {defence for each, defence, _ in ROWS if each == recipe}
        assert not tables or told <= defences
        assert {name for name in defences if name.startswith("ssad")} <= told


def test_the_table_across_corpora_is_what_was_measured() -> None:
    place = ROOT / "results" / "across" / "figures.json"
    figures = json.loads(place.read_text(encoding="utf-8"))["figures"]
    told = {(name, of): shown(cells) for name, of, cells in ACROSS}
    for each in figures:
        values = [f"{each[key]['value']:.1f}" for key in ("clean", "fgsm", "pgd")]
        values.append(f"{each['adaptive'][0]['uar']:.1f}")
        assert told[each["recogniser"], each["purifier"]] == values
