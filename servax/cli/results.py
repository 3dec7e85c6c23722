"""What a run, a report or a comparison came to, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servax.cli.output import command_line, note, print_json, print_table, room
from servax.cli.status import run_bars
from servax.errors import PathError
from servax.evaluation.records import Records
from servax.experiments import AnyRecipe, Finished, report_run, run
from servax.report import Measures, Table, collect, home_of, table_1, write_comparison
from servax.report.audit import AuditResult, main_table, read_results, write_audit
from servax.report.regression import RegressionResult
from servax.stages import Engine, is_url, without_password


def finished(recipe: AnyRecipe, place: str, *, as_json: bool, engine: Engine | None = None) -> int:
    """Perform a recipe with bars, and show its first table."""
    with run_bars() as bars:
        done = run(recipe, place, command=command_line(), watcher=bars, engine=engine)
    code = _show(done, as_json=as_json)
    if is_url(place):
        note(f"all results: {without_password(place)}")
    return code


def _show(done: Finished, *, as_json: bool) -> int:
    found = collect(done.records.frame, done.records.provenance)
    return _print(table_1(Measures(found)), done.report.html, as_json=as_json)


def _print(grid: Table, page: Path, *, as_json: bool) -> int:
    if as_json:
        print_json({"columns": grid.columns, "rows": grid.texts, "report": str(page)})
    else:
        kept = fitting(grid.columns, room())
        columns, *rows = ([row[i] for i in kept] for row in (grid.columns, *grid.texts))
        print_table(grid.title, columns, rows)
    note(f"report: {page}")
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


def written_again(where: str, out: str | None, *, as_json: bool) -> int:
    """Write the report of a run or an audit from its records, and show its first table."""
    results = read_results(where)
    if isinstance(results, RegressionResult):
        home = home_of(where)
        page = results.write_report(out or home / "report-again", home.name).html
        if as_json:
            print_json(results.document())
        else:
            show_numbers(results)
        note(f"report: {page}")
        return 0
    if isinstance(results, AuditResult):
        # The report that stands there alone holds the sounds.
        written = write_audit(results, out or home_of(where) / "report-again")
        return _print(main_table(results), written.html, as_json=as_json)
    folder = Path(out) if out else None
    return _show(report_run(Path(where), out=folder), as_json=as_json)


def show_numbers(found: RegressionResult) -> None:
    """Print what an audit of a model that answers in numbers found."""
    table = found.table()
    print_table(table.title, table.columns, table.texts)
    for sentence in found.sentences:
        note(sentence)


def compared(a: Path, b: Path, out: str | None, *, as_json: bool) -> int:
    """Write and show the comparison of two runs or audits."""
    names = run_names(a, b)
    flat = names[1].strip("/").replace("/", "-").replace("\\", "-")
    folder = Path(out) if out else home_of(a) / f"report-versus-{flat}"
    table, written = write_comparison(_of_classes(a), _of_classes(b), folder, names=names)
    if as_json:
        rows = [] if table.numbers is None else table.numbers.to_dict("records")
        told = {"a": names[0], "b": names[1], "rows": rows}
        print_json(told | {"report": str(written.html)})
    else:
        columns = [*table.columns[:2], f"A: {names[0]}", f"B: {names[1]}", *table.columns[4:]]
        print_table(table.title, columns, table.texts)
    note(f"report: {written.html}")
    return 0


def _of_classes(path: Path) -> Records | AuditResult:
    found = read_results(path)
    if isinstance(found, RegressionResult):
        raise PathError(
            path,
            "is an audit of a model that answers in numbers, expected a run or an audit of "
            "classes: others are not compared yet",
        )
    return found


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
