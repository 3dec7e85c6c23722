"""``servax demo``, ``run`` and ``report``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from servax.cli.bars import RunBars
from servax.cli.output import print_json, print_table, room, say
from servax.errors import SettingError
from servax.experiments import Finished, Recipe, load_recipe, report_run, run
from servax.report.outcomes import collect
from servax.report.text_tables import grid_table
from servax.stages import Engine, RayEngine, is_url, without_password

DEMO = "demo.yaml"


def run_demo(*, out: str, as_json: bool) -> int:
    """Run the recipe that stands in the package."""
    with as_file(files("servax.experiments") / DEMO) as path:
        recipe = load_recipe(path)
    say("The demo speaks a synthetic corpus: its figures show that the system works, nothing more.")
    return _finish(recipe, Path(out), as_json=as_json)


def run_recipe(
    path: str, *, out: str | None, engine: str, address: str | None, as_json: bool
) -> int:
    """Run a recipe.

    Args:
        path: The recipe.
        out: Folder or URL of the run; default runs/<name of the recipe>.
        engine: local or ray.
        address: Of a Ray cluster.
        as_json: Print JSON.
    """
    if address is not None and engine != "ray":
        raise SettingError("address", address, "--engine ray beside it: only Ray joins a cluster")
    recipe = load_recipe(path)
    place = out or str(run_folder(recipe, out))
    performer = RayEngine(address) if engine == "ray" else None
    return _finish(recipe, place, as_json=as_json, engine=performer)


def run_folder(recipe: Recipe, out: str | None) -> Path:
    """Return the folder of a run, which is named after its recipe unless `out` says otherwise."""
    return Path(out) if out else Path("runs") / recipe.name


def _finish(
    recipe: Recipe, place: str | Path, *, as_json: bool, engine: Engine | None = None
) -> int:
    with RunBars() as bars:
        finished = run(recipe, place, command=command_line(), watcher=bars, engine=engine)
    code = _show(finished, as_json=as_json)
    if is_url(str(place)):
        say(f"all results: {without_password(str(place))}")
    return code


def write_again(run_folder: str, *, out: str | None, as_json: bool) -> int:
    """Write a report from the records of a run."""
    return _show(report_run(Path(run_folder), out=Path(out) if out else None), as_json=as_json)


def _show(finished: Finished, *, as_json: bool) -> int:
    table = finished.records
    outcomes = collect(table.frame, classes=tuple(table.provenance.get("classes", ())))
    grid = grid_table(outcomes, table.provenance)
    columns = [head.text for head in grid.head]
    rows = [[cell.text for cell in row] for row in grid.rows]
    if as_json:
        print_json({"columns": columns, "rows": rows, "report": str(finished.report.html)})
    else:
        kept = fitting(columns, room())
        print_table(
            grid.title, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
        )
    say(f"report: {finished.report.html}")
    return 0


def fitting(columns: Sequence[str], width: int | None) -> list[int]:
    """Return which columns are shown: all, or where they do not fit the means and the adaptive one.

    The report holds every ε and k; a table folded into a narrow terminal cannot be read.
    """
    needed = sum(len(column) + 3 for column in columns) + len("gaussian-noise")
    if width is None or width >= needed:
        return list(range(len(columns)))
    telling = [c == "clean" or c.endswith("mean") or c.startswith("adaptive") for c in columns]
    return [0, *(i for i, wanted in enumerate(telling) if wanted and i)]


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join(["servax", *sys.argv[1:]])
