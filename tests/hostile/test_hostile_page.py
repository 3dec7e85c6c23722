"""The figures of docs/hostile.md are those of the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/hostile.md").read_text(encoding="utf-8")
MODES = ("body", "file", "service", "attack", "form", "json", "stream", "tensor")
ACCEPTED = ("purified", "purify_done", "decoded")


def record(mode: str) -> dict[str, Any]:
    text = (ROOT / f"results/hostile/{mode}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def table() -> dict[str, list[str]]:
    """Return the cells of the table of figures, by the first of each row."""
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("|") and line.count("|") == len(MODES) + 2
    ]
    split = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {first: rest for first, *rest in split}


def told(name: str, mode: str) -> str:
    return table()[name][MODES.index(mode)].replace(" ", "")


def accepted(found: dict[str, Any]) -> int:
    if "outcomes" in found:
        return sum(found["outcomes"].get(name, 0) for name in ACCEPTED)
    return sum(count for name, count in found["statuses"].items() if name.startswith(("101", "2")))


def refused(found: dict[str, Any]) -> int:
    if "outcomes" in found:
        return int(found["mutants"] - accepted(found))
    return sum(count for name, count in found["statuses"].items() if name.startswith("4"))


@pytest.mark.parametrize("mode", MODES)
def test_the_page_tells_what_the_record_holds(mode: str) -> None:
    found = record(mode)
    sent = found.get("mutants") or found["requests"]
    assert sent >= 10_000
    assert told("sent", mode) == str(sent)
    assert told("accepted", mode) == str(accepted(found))
    assert told("refused", mode) == str(refused(found))
    assert told("faults", mode) == str(len(found["faults"]))
    assert told("slowest, s", mode) == f"{found['slowest_seconds']:.2f}"
    memory = f"{found['rss_ready_mib']:.0f}→{found['rss_peak_mib']:.0f}"
    assert told("memory when ready → most, MiB", mode) == memory
    assert told("seconds", mode) == f"{found['seconds']:.0f}"


@pytest.mark.parametrize("mode", MODES)
def test_the_record_is_without_fault(mode: str) -> None:
    found = record(mode)
    assert found["faults"] == []
    assert found["stray_files"] == []
    assert found.get("complaints", []) == found.get("log_leaks", []) == []


@pytest.mark.parametrize("mode", MODES[2:])
def test_good_requests_were_answered_meanwhile(mode: str) -> None:
    assert record(mode)["good_requests"] == {
        f"{path} 200": 100 for path in ("/v1/classify", "/v1/purify", "/healthz")
    }
