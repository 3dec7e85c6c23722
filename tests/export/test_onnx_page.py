"""The figures of docs/onnx.md are those of its records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
FILES = ("float32", "int8-static", "int8-dynamic")


def record(name: str) -> dict[str, Any]:
    place = ROOT / "results" / "onnx" / f"{name}.json"
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found


def row(title: str) -> list[str]:
    found = re.search(rf"^\| {re.escape(title)} \|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert found is not None, title
    return [cell.strip() for cell in found[1].split("|")]


@pytest.mark.parametrize("state", ["clean", "attacked"])
def test_what_is_answered(state: str) -> None:
    told = record("loss")
    assert row(f"UAR, {state}") == [f"{told['uar'][state][w]:.1f}" for w in ("torch", *FILES)]
    same = told["same_answer_as_torch"][state]
    assert row(f"same answer as torch, {state}, %") == ["", *(f"{same[f]:.1f}" for f in FILES)]
    assert f"{told['utterances']} utterances of twelve actors" in PAGE


@pytest.mark.parametrize(
    ("title", "key"),
    [("logits", "logits"), ("the purified log-Mel", "purified")],
)
def test_differences(title: str, key: str) -> None:
    told = record("loss")["largest_difference"]
    shown = [float(cell) for cell in row(f"largest difference of {title}")[1:]]
    assert shown == pytest.approx([told[f][key] for f in FILES], rel=0.03)


def test_sizes_and_times() -> None:
    sizes, times = record("loss")["bytes"], record("time")["milliseconds"]
    for title, kind in (("purifier alone, MB", "purifier"), ("whole graph, MB", "graph")):
        assert row(title) == ["", *(f"{sizes[f'{kind}-{f}'] / 1e6:.2f}" for f in FILES)]
    for title, kind in (("whole graph, ms", "graph"), ("`purify`, ms", "sound")):
        assert row(title) == [f"{times[f'{kind}/{way}']:.1f}" for way in ("torch", *FILES)]
