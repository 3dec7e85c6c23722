"""The table of the benchmark's page, between two markers of a Markdown file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from servax.benchmark.record import MEASURES, Adaptive, Figure, Figures, GroupSet, Record
from servax.errors import PathError, SettingError
from servax.files import write_whole
from servax.report import Cell, Head, Table, markdown_table

__all__ = ["BEGIN", "END", "in_order", "rewrite", "tables_of", "with_tables"]

BEGIN = "<!-- benchmark: begin (python research/benchmark_page.py writes what follows) -->"
END = "<!-- benchmark: end -->"
MISSING = "not measured"
SETS: tuple[GroupSet, ...] = ("held-out", "tuning")
HEADS = {
    "undefended": "undefended, clean",
    "clean": "clean",
    "fgsm": "FGSM mean",
    "pgd": "PGD mean",
    "pe": "PE",
    "rr": "RR",
}
SHARES = ("pe", "rr")


def tables_of(records: Sequence[Record]) -> list[Table]:
    """Return one table per kind of recogniser and set of groups, then one of the defences.

    Rows are sorted by the UAR that the adaptive attacker leaves at the protocol's radius, then by
    the UAR under the oblivious PGD on held-out speakers.

    Raises:
        SettingError: Two entries were measured by different protocols.
    """
    for other in records[1:]:
        if other.protocol != records[0].protocol:
            raise SettingError(
                f"the protocol of {other.name}",
                other.protocol,
                f"that of {records[0].name}: one table compares what was measured alike",
            )
    targets = sorted({f.target for record in records for f in record.figures}, key=_first_vgg)
    tables = [
        _figures_table(in_order(records, target), target, groups)
        for target in targets
        for groups in SETS
        if any(record.of(target, groups) for record in records)
    ]
    return [*tables, _defences_table(records)]


def in_order(records: Sequence[Record], target: str) -> list[Record]:
    """Return the entries in the order of the table of one kind of recogniser."""

    def key(record: Record) -> tuple[float, float, str]:
        held_out, tuning = (record.of(target, groups) for groups in SETS)
        adaptive = _strictest(held_out, record) or _strictest(tuning, record)
        pgd = held_out.pgd if held_out else None
        return (
            -adaptive.uar if adaptive else math.inf,
            -pgd.value if pgd else math.inf,
            record.name,
        )

    return sorted(records, key=key)


def _first_vgg(target: str) -> tuple[bool, str]:
    """Put the paper's kind of recogniser first."""
    return target != "vgg16", target


def _strictest(figures: Figures | None, record: Record) -> Adaptive | None:
    """Return the adaptive figure at the protocol's radius that leaves the least, or None."""
    at = [a for a in (figures.adaptive if figures else ()) if a.radius == record.protocol.radius]
    return min(at, key=lambda each: each.uar) if at else None


def _figures_table(records: Sequence[Record], target: str, groups: GroupSet) -> Table:
    measured = [found for record in records if (found := record.of(target, groups))]
    conditions = sorted({_condition(each) for found in measured for each in found.adaptive})
    heads = [Head("defence"), *(Head(_adaptive_head(*each)) for each in conditions)]
    heads += [Head(HEADS[name]) for name in MEASURES]
    wanted = ", ".join(map(str, records[0].protocol.of(groups)))
    looked = "looked at once, at the end" if groups == "held-out" else "used for tuning"
    rows = tuple(_row(record, record.of(target, groups), conditions) for record in records)
    return Table(
        title=f"{target}, {groups} speakers",
        note=f"Groups {wanted}, {looked}. UAR in %, PE and RR as shares, with 95 % intervals over "
        "speakers below. Adaptive attackers know the defence; FGSM and PGD do not.",
        head=tuple(heads),
        rows=rows,
    )


def _condition(each: Adaptive) -> tuple[float, int, int]:
    return each.radius, each.steps, each.restarts


def _adaptive_head(radius: float, steps: int, restarts: int) -> str:
    return f"adaptive PGD-{steps}, {restarts} starts, radius {_short(radius)}"


def _row(
    record: Record, figures: Figures | None, conditions: Sequence[tuple[float, int, int]]
) -> tuple[Cell, ...]:
    adaptive = {_condition(a): a for a in (figures.adaptive if figures else ())}
    cells = [Cell(record.name, detail=_coverage(record, figures))]
    for condition in conditions:
        found = adaptive.get(condition)
        told = f"{found.utterances} utterances" if found else ""
        cells.append(Cell(f"{found.uar:.1f}" if found else MISSING, detail=told))
    for name in MEASURES:
        if record.kind == "none" and name in SHARES:
            cells.append(Cell("–"))  # of a defence only
        else:
            cells.append(_cell(name, getattr(figures, name) if figures else None))
    return tuple(cells)


def _coverage(record: Record, figures: Figures | None) -> str:
    """Return what a row's figures cover where that is not all of the set, one seed."""
    if figures is None:
        return ""
    told = []
    if set(figures.heard) != set(record.protocol.of(figures.groups)):
        told.append(f"groups {', '.join(map(str, figures.heard))} only")
    if len(figures.seeds) > 1:
        told.append(f"{len(figures.seeds)} seeds")
    return ", ".join(told)


def _cell(name: str, figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(MISSING)
    digits = 2 if name in SHARES else 1
    ends = [f"{end:.{digits}f}" for end in (figure.low, figure.high) if end is not None]
    return Cell(f"{figure.value:.{digits}f}", detail=f"[{', '.join(ends)}]" if ends else "")


def _short(value: float) -> str:
    return f"{value:g}".removeprefix("0")


def _defences_table(records: Sequence[Record]) -> Table:
    rows = tuple(
        (
            Cell(record.name),
            Cell(record.kind),
            Cell(f"{record.parameters:,}" if record.parameters else "none"),
            Cell(", ".join(record.knowledge) or ("none" if record.learned else "learns nothing")),
            Cell(record.training.data if record.training else "none"),
            Cell(record.training.licence if record.training else "none"),
            Cell(record.weights or "not packaged"),
            Cell(record.source),
        )
        for record in sorted(records, key=lambda each: each.name)
    )
    heads = ("defence", "kind", "parameters", "kept from it", "trained on", "licence of the data")
    return Table(
        title="The defences",
        note="",
        head=tuple(map(Head, (*heads, "weights", "source"))),
        rows=rows,
        prose=True,
    )


def with_tables(page: str, records: Sequence[Record], *, where: str | Path = "the page") -> str:
    """Return a page with the tables between its markers.

    Raises:
        PathError: The page has not both markers, each once.
        SettingError: As `tables_of`.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise PathError(where, f"lacks its markers, expected each once: {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    tables = [markdown_table(table) for table in tables_of(records)] if records else []
    inside = "\n\n".join(tables or ["No entry has been measured yet."])
    return f"{before}{BEGIN}\n\n{inside}\n\n{END}{after}"


def rewrite(page: str | Path, records: Sequence[Record]) -> bool:
    """Write the tables into a page; return whether that changed it.

    Raises:
        PathError, SettingError: As `with_tables`; or the page cannot be read.
    """
    page = Path(page)
    try:
        old = page.read_text(encoding="utf-8")
    except OSError as error:
        raise PathError(page, f"cannot be read ({error.strerror})") from None
    new = with_tables(old, records, where=page)
    if new != old:
        write_whole(page, new.encode())
    return new != old
