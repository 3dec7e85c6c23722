"""Writes the table of `README.md` and `docs/speed.md` from `results/*.json`: no row is typed.

Without options it writes; with ``--check`` it fails when a page is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = (HERE / "README.md", HERE.parent / "docs" / "speed.md")
"""Pages that hold the table."""
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEAD = ("what", "against", "target", "measured", "met", "floor", "machine", "on a GPU", "command")
ORDER = ("pgd", "attack_grid", "auto_attack", "training_step")
"""Benchmarks (the file's stem up to a hyphen) that come first; the others follow by name."""
MET = {True: "yes", False: "no", None: "—"}


def rows(folder: Path) -> list[list[str]]:
    """Return the cells of every row of the results in a folder."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    kept = sorted((each for each in found if "rows" in each), key=_place)
    return [_cells(row, each) for each in kept for row in each["rows"]]


def _place(found: dict[str, Any]) -> tuple[int, str]:
    name = str(found["benchmark"])
    stem = name.partition("-")[0]
    return (ORDER.index(stem) if stem in ORDER else len(ORDER), name)


def _cells(row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = ("what", "against", "target", "measured")
    cells = [str(row[name]) for name in names]
    return [
        *cells,
        MET[row["met"]],
        str(row["floor"]),
        _machine(found),
        str(row["gpu"]),
        f"`{found['command']}`",
    ]


def _machine(found: dict[str, Any]) -> str:
    """Return the machine, and what its convolutions reach in float32 where that was measured."""
    rates = [each for each in found.get("rates", ()) if each["dtype"] == "float32"]
    told = [f"{each['convolution_gflops']:.0f} GFLOP/s" for each in rates]
    return ", ".join([str(found["machine"]), *told])


def table(lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    every = [HEAD, ["---"] * len(HEAD), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in every)


def filled(page: str, folder: Path) -> str:
    """Return the page with the table between its markers replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows(folder))}\n{END}{after}"


def main() -> int:
    """Write or check the page; 1 when a check fails."""
    parser = argparse.ArgumentParser(description="The table of benchmarks/README.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES, help="which pages")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of results")
    given = parser.parse_args()
    stale = 0
    for path in given.pages:
        page = path.read_text(encoding="utf-8")
        new = filled(page, given.results)
        if given.check and page != new:
            print(f"{path} is not what the results say; run python benchmarks/table.py")
            stale = 1
        elif not given.check:
            path.write_text(new, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
