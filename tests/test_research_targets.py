"""The tables that open docs/research.md are what the benchmark and the attacks measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
ENTRY = json.loads((ROOT / "results" / "benchmark" / "ssad-plus.json").read_text(encoding="utf-8"))
ADAPTIVE = sorted((ROOT / "results" / "adaptive").glob("*.json"))
COLUMNS = ["tuning", "held-out"]


def cells(label: str) -> list[str]:
    (row,) = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", PAGE, flags=re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def figures(target: str, groups: str) -> dict[str, Any]:
    (found,) = [f for f in ENTRY["figures"] if (f["target"], f["groups"]) == (target, groups)]
    return found


def values(target: str, groups: str) -> dict[str, float]:
    found = figures(target, groups)
    return {
        name: found[name]["value"] for name in ("undefended", "clean", "fgsm", "pgd", "pe", "rr")
    }


def test_the_targets_are_set_beside_what_was_measured() -> None:
    both = [values("vgg16", groups) for groups in COLUMNS]
    expected = {
        "clean UAR lost by the purifier, points": [
            f"{each['undefended'] - each['clean']:.1f}" for each in both
        ],
        "FGSM mean / clean UAR": [f"{each['fgsm'] / each['undefended']:.2f}" for each in both],
        "PGD mean / clean UAR": [f"{each['pgd'] / each['undefended']:.2f}" for each in both],
        "PE over k = 1 … 30": [f"{each['pe']:.2f}" for each in both],
        "RR": [f"{each['rr']:.2f}" for each in both],
    }
    for label, told in expected.items():
        assert cells(label)[2:] == told, label


def test_other_architectures_are_set_beside_the_surrogates() -> None:
    for found in ENTRY["figures"]:
        label = f"{found['target']}, {found['groups']}"
        each = values(found["target"], found["groups"])
        names = ("undefended", "clean", "fgsm", "pgd")
        assert cells(label) == [
            *(f"{each[name]:.1f}" for name in names),
            *(f"{each[name] / each['undefended']:.2f}" for name in names[1:]),
        ], label


def test_the_certificate_is_that_of_its_record() -> None:
    place = ROOT / "results" / "certificate" / "noise-denoise.json"
    told = json.loads(place.read_text(encoding="utf-8"))
    share = told["certified accuracy by Euclidean radius"]["0.1"]
    assert f"{100 * share:.0f} % of the utterances within a Euclidean radius of .1" in PAGE
    largest = f"none beyond {told['largest radius']:.3f}".replace("0.", ".")
    assert largest in PAGE
    reach = f"is {told['norm of a change of .003 in every cell']:.2f}".replace("0.", ".")
    assert reach in PAGE
    assert f"{told['draws']} draws, {told['utterances']} utterances of group 1" in PAGE


@pytest.mark.parametrize("path", ADAPTIVE, ids=lambda path: path.stem)
def test_what_an_attacker_leaves_who_knows_the_defence(path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    shown = []
    for each in told["figures"]:
        under = each["under"]
        auto = min(under[name] for name in under if name.startswith("APGD"))
        shown += [f"{under['PGD-100, 5 starts']:.1f}", f"{auto:.1f}", f"{under['worst']:.1f}"]
    assert cells(f"{told['system']}, known") == [f"{told['figures'][0]['clean']:.1f}", *shown]
