"""``servax demo | run | report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

from servax.cli import status
from servax.cli.bars import RunBars
from servax.cli.commands import operand
from servax.cli.output import command_line, print_json, print_table, room, say
from servax.errors import SettingError
from servax.experiments import Finished, Recipe, load_recipe, report_run, run
from servax.report import Measures, Table, collect, home_of, table_1, write_comparison
from servax.report.audit import AuditResult, main_table, read_results, scores, write_audit
from servax.stages import Engine, RayEngine, is_url, mirror, without_password

DEMO = "demo.yaml"


@dataclass(frozen=True)
class Demo:
    """Tell the whole story on the embedded synthetic corpus, in minutes, ending in a report."""

    _: KW_ONLY
    out: str = "runs/demo"
    """Folder of the run; an interrupted demo goes on where it stopped."""
    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> int:
        """Run the recipe that stands in the package."""
        with as_file(files("servax.experiments") / DEMO) as path:
            recipe = load_recipe(path)
        say(
            "The demo speaks a synthetic corpus: its figures show that the system works, nothing "
            "more."
        )
        return _finish(recipe, self.out, as_json=self.json)


@dataclass(frozen=True)
class Run:
    """Run a recipe: train, purify, attack, score, report. Stages already done are not repeated."""

    recipe: str
    """YAML file, e.g. recipes/ravdess_quick.yaml."""
    _: KW_ONLY
    out: str | None = None
    """Folder of the run, or a URL that fsspec can write (s3://bucket/run, sftp://host/run); default
    runs/<name of the recipe>."""
    engine: Literal["local", "ray"] = "local"
    """local performs one stage after another in this process; ray performs all that are ready at
    once, on this machine or on a cluster (pip install 'servax[ray]')."""
    address: str | None = None
    """HOST:PORT of the head of a Ray cluster to join, or auto for that of this machine; default
    starts Ray here. Every machine needs servax and the recordings."""
    dry_run: bool = False
    """Show the stages, what is done already and how long the rest may take; run nothing."""
    status: bool = False
    """Show how far a run in progress or a past one is; run nothing, touch nothing."""
    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> int:
        """Run the recipe, or show its stages."""
        if self.dry_run and self.status:
            expected = "one of --dry-run and --status, not both"
            raise SettingError("status", self.status, expected)
        looks = self.dry_run or self.status
        if self.address is not None and self.engine != "ray" and not looks:
            expected = "--engine ray beside it: only Ray joins a cluster"
            raise SettingError("address", self.address, expected)
        recipe = load_recipe(self.recipe)
        place = self.out or str(Path("runs") / recipe.name)
        if looks:
            folder = mirror(place) if is_url(place) else Path(place)
            shown = without_password(place)
            return status.show(recipe, shown, folder, status=self.status, as_json=self.json)
        engine = RayEngine(self.address) if self.engine == "ray" else None
        return _finish(recipe, place, as_json=self.json, engine=engine)


def _finish(recipe: Recipe, place: str, *, as_json: bool, engine: Engine | None = None) -> int:
    with RunBars() as bars:
        finished = run(recipe, place, command=command_line(), watcher=bars, engine=engine)
    code = _show(finished, as_json=as_json)
    if is_url(place):
        say(f"all results: {without_password(place)}")
    return code


def _show(finished: Finished, *, as_json: bool) -> int:
    found = collect(finished.records.frame, finished.records.provenance)
    return _print(table_1(Measures(found)), finished.report.html, as_json=as_json)


def _print(grid: Table, page: Path, *, as_json: bool) -> int:
    columns = [head.text for head in grid.head]
    rows = [[cell.text for cell in row] for row in grid.rows]
    if as_json:
        print_json({"columns": columns, "rows": rows, "report": str(page)})
    else:
        kept = fitting(columns, room())
        print_table(
            grid.title, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]
        )
    say(f"report: {page}")
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


@dataclass(frozen=True)
class Report:
    """Write the report of a run or audit again, or compare two: `servax report RUN_A RUN_B`."""

    run: str
    """Folder of the run or audit, or one Parquet file of records."""
    versus: str | None = operand(None)
    """Another run or audit, to compare with; the same as a second RUN."""
    _: KW_ONLY
    out: str | None = None
    """Folder of the report; default <run>/report, of an audit <run>/report-again, of a comparison
    <run>/report-versus-<other run>."""
    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> int:
        """Write the report from the records, or the comparison of two."""
        if self.versus is not None:
            return self._compare(Path(self.run), Path(self.versus))
        results = read_results(self.run)
        if isinstance(results, AuditResult):
            # The report that stands there alone holds the sounds.
            written = write_audit(results, self.out or home_of(self.run) / "report-again")
            return _print(main_table(scores(results)), written.html, as_json=self.json)
        out = Path(self.out) if self.out else None
        return _show(report_run(Path(self.run), out=out), as_json=self.json)

    def _compare(self, a: Path, b: Path) -> int:
        names = run_names(a, b)
        flat = names[1].strip("/").replace("/", "-").replace("\\", "-")
        folder = Path(self.out) if self.out else home_of(a) / f"report-versus-{flat}"
        table, written = write_comparison(read_results(a), read_results(b), folder, names=names)
        if self.json:
            told = {"a": names[0], "b": names[1], "rows": _rows(table)}
            print_json(told | {"report": str(written.html)})
        else:
            columns = [head.text for head in table.head]
            columns[2:4] = [f"A: {names[0]}", f"B: {names[1]}"]
            print_table(table.title, columns, [[cell.text for cell in row] for row in table.rows])
        say(f"report: {written.html}")
        return 0


def _rows(table: Table) -> list[dict[str, Any]]:
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
