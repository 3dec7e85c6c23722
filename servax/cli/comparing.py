"""``servax report RUN_A RUN_B``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servax.cli.output import print_json, print_table, say
from servax.report.cells import TextTable
from servax.report.reading import home_of, read_run
from servax.report.versus import write_comparison

__all__ = ["compare_runs", "run_names"]


def compare_runs(first: str, second: str, *, out: str | None, as_json: bool) -> int:
    """Compare two runs, each a folder or one Parquet file of records."""
    paths = (Path(first), Path(second))
    names = run_names(*paths)
    folder = Path(out) if out else home_of(paths[0]) / f"report-versus-{_flat(names[1])}"
    table, written = write_comparison(read_run(paths[0]), read_run(paths[1]), folder, names=names)
    if as_json:
        print_json(
            {
                "a": names[0],
                "b": names[1],
                "rows": _rows(table),
                "report": str(written.html),
            }
        )
    else:
        columns = [head.text for head in table.head]
        columns[2:4] = [f"A: {names[0]}", f"B: {names[1]}"]
        print_table(table.title, columns, [[cell.text for cell in row] for row in table.rows])
    say(f"report: {written.html}")
    return 0


def _rows(table: TextTable) -> list[dict[str, Any]]:
    """Return the numbers behind a table; JSON has no word for what was not measured but null."""
    if table.numbers is None:
        return []
    numbers = table.numbers.astype(object)
    return [dict(row) for _, row in numbers.where(numbers.notna(), None).iterrows()]


def run_names(first: Path, second: Path) -> tuple[str, str]:
    """Return how two runs are called: by their folders, as far as these differ."""
    names = _name(first), _name(second)
    return names if names[0] != names[1] else (str(first), str(second))


def _name(path: Path) -> str:
    """Return ``run`` for a folder, ``run/fold-1`` for one file of its records."""
    if path.suffix != ".parquet":
        return path.resolve().name
    home = home_of(path).resolve().name
    return f"{home}/{path.stem}" if home else path.stem


def _flat(name: str) -> str:
    return name.strip("/").replace("/", "-").replace("\\", "-")
