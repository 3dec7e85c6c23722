"""A report is a pure function of its records: those committed beside it give it again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from servax.cli import main

RESULTS = Path(__file__).parents[2] / "results"
RUNS = sorted(folder.parent.name for folder in RESULTS.glob("*/records"))
TOLD_OF_THE_MACHINE = ("- command:", "- commit:", "- machine:", "- versions:", "- servax:")
"""How lines of a page begin that say where its numbers come from."""


def of_report(folder: Path) -> dict[str, bytes]:
    """Return the tables and the page of a report, the page without what tells of the machine."""
    files = [*folder.glob("tables/*.csv"), *folder.glob("tables/*.tex")]
    told = {file.name: file.read_bytes() for file in files}
    page = (folder / "report.md").read_text(encoding="utf-8")
    # The arrays of this picture are kept for some runs only.
    page = re.sub(r"## What attack and purifier do\n.*?(?=\n## )", "", page, flags=re.DOTALL)
    lines = [line for line in page.splitlines() if not line.startswith(TOLD_OF_THE_MACHINE)]
    return told | {"report.md": "\n".join(filter(None, lines)).encode()}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name != "ravdess_audit"])
def test_the_committed_report_is_made_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "ravdess_quick":  # drawn once is enough: no picture is compared
        monkeypatch.setattr("servax.report.run.png", lambda figure: b"")
    assert main(["report", str(RESULTS / name), "--out", str(tmp_path)]) == 0
    wanted, found = of_report(RESULTS / name / "report"), of_report(tmp_path)
    assert sorted(found) == sorted(wanted)
    assert [file for file in wanted if found[file] != wanted[file]] == []
