"""Write the tables of docs/benchmark.md from the entries in results/benchmark/.

python research/benchmark_page.py
"""

from __future__ import annotations

import html
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from entries import MEASURES, Adaptive, Figure, Figures, GroupSet, Record, read_all

from servax.errors import PathError, ServaxError, SettingError
from servax.files import write_whole

PAGE = Path("docs/benchmark.md")
RESULTS = Path("results/benchmark")
BEGIN = "<!-- benchmark: begin (python research/benchmark_page.py writes what follows) -->"
END = "<!-- benchmark: end -->"
MISSING = "not measured"
SETS: dict[GroupSet, str] = {"held-out": "looked at once, at the end", "tuning": "used for tuning"}
HEADS = ("undefended, clean", "clean", "FGSM mean", "PGD mean", "PE", "RR")
"""Of `MEASURES`."""
Condition = tuple[float, int, int]


def tables_of(records: Sequence[Record]) -> str:
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
    targets = {figures.target for record in records for figures in record.figures}
    found = [
        _figures_table(in_order(records, target), target, groups)
        for target in sorted(targets, key=lambda name: (name != "vgg16", name))
        for groups in SETS
        if any(record.of(target, groups) for record in records)
    ]
    return "\n\n".join([*found, _defences_table(records)])


def in_order(records: Sequence[Record], target: str) -> list[Record]:
    """Return the entries in the order of the table of one kind of recogniser."""

    def strictest(figures: Figures | None, radius: float) -> float | None:
        """Return the least that an adaptive attack at the protocol's radius leaves."""
        at = [each.uar for each in (figures.adaptive if figures else ()) if each.radius == radius]
        return min(at, default=None)

    def key(record: Record) -> tuple[float, float, str]:
        held_out, tuning = (record.of(target, groups) for groups in SETS)
        adaptive = strictest(held_out, record.protocol.radius)
        if adaptive is None:
            adaptive = strictest(tuning, record.protocol.radius)
        pgd = held_out.pgd if held_out else None
        return (
            math.inf if adaptive is None else -adaptive,
            -pgd.value if pgd else math.inf,
            record.name,
        )

    return sorted(records, key=key)


def _figures_table(records: Sequence[Record], target: str, groups: GroupSet) -> str:
    measured = [found for record in records if (found := record.of(target, groups))]
    conditions = sorted({_condition(each) for found in measured for each in found.adaptive})
    heads = [
        f"adaptive PGD-{steps}, {restarts} starts, radius {f'{radius:g}'.removeprefix('0')}"
        for radius, steps, restarts in conditions
    ]
    wanted = ", ".join(map(str, records[0].protocol.of(groups)))
    note = (
        f"Groups {wanted}, {SETS[groups]}. UAR in %, PE and RR as shares, with 95 % intervals over "
        "speakers below. Adaptive attackers know the defence; FGSM and PGD do not."
    )
    rows = [_row(record, record.of(target, groups), conditions) for record in records]
    return _markdown(f"{target}, {groups} speakers", note, ["defence", *heads, *HEADS], rows, 1)


def _condition(each: Adaptive) -> Condition:
    return each.radius, each.steps, each.restarts


def _row(
    record: Record, figures: Figures | None, conditions: Sequence[Condition]
) -> list[tuple[str, str]]:
    """Return the cells of an entry: what is told, and what stands small below."""
    cells = [(record.name, _coverage(record, figures))]
    adaptive = {_condition(a): a for a in (figures.adaptive if figures else ())}
    for condition in conditions:
        found = adaptive.get(condition)
        told = (f"{found.uar:.1f}", f"{found.utterances} utterances") if found else (MISSING, "")
        cells.append(told)
    for name in MEASURES:
        share = name in ("pe", "rr")  # of a defence only
        figure: Figure | None = getattr(figures, name) if figures else None
        if record.kind == "none" and share:
            cells.append(("–", ""))
        elif figure is None:
            cells.append((MISSING, ""))
        else:
            ends = [figure.value, *(e for e in (figure.low, figure.high) if e is not None)]
            value, *ends = (f"{end:.{2 if share else 1}f}" for end in ends)
            cells.append((value, f"[{', '.join(ends)}]" if ends else ""))
    return cells


def _coverage(record: Record, figures: Figures | None) -> str:
    """Return what a row's figures cover where that is not all of the set, one seed."""
    told = []
    if figures and set(figures.heard) != set(record.protocol.of(figures.groups)):
        told.append(f"groups {', '.join(map(str, figures.heard))} only")
    if figures and len(figures.seeds) > 1:
        told.append(f"{len(figures.seeds)} seeds")
    return ", ".join(told)


def _defences_table(records: Sequence[Record]) -> str:
    rows = [
        (
            record.name,
            record.kind,
            f"{record.parameters:,}" if record.parameters else "none",
            ", ".join(record.knowledge) or ("none" if record.learned else "learns nothing"),
            record.training.data if record.training else "none",
            record.training.licence if record.training else "none",
            record.weights or "not packaged",
            record.source,
        )
        for record in sorted(records, key=lambda each: each.name)
    ]
    heads = ["defence", "kind", "parameters", "kept from it", "trained on", "licence of the data"]
    heads += ["weights", "source"]
    cells = [[(text, "") for text in row] for row in rows]
    return _markdown("The defences", "", heads, cells, len(heads))


def _markdown(
    title: str,
    note: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[tuple[str, str]]],
    words: int,
) -> str:
    """Return a table as Markdown, its first so many columns words, the others numbers."""
    lines = [
        f"## {_safe(title)}\n",
        *([f"{_safe(note)}\n"] if note else []),
        f"| {' | '.join(map(_safe, heads))} |",
        "|" + "---|" * words + "---:|" * (len(heads) - words),
    ]
    for row in rows:
        told = (
            _safe(text) + (f"<br><small>{_safe(below)}</small>" if below else "")
            for text, below in row
        )
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def _safe(text: str) -> str:
    """Return text that neither breaks a table nor is taken for markup."""
    return html.escape(re.sub(r"[\\|`*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text), quote=False)


def with_tables(page: str, records: Sequence[Record], *, where: str | Path = "the page") -> str:
    """Return a page with the tables between its markers.

    Raises:
        PathError: The page has not both markers, each once.
        SettingError: As `tables_of`.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise PathError(where, f"lacks its markers, expected each once: {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    inside = tables_of(records) if records else "No entry has been measured yet."
    return f"{before}{BEGIN}\n\n{inside}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Rewrite the part between the markers."""
    old = PAGE.read_text(encoding="utf-8")
    new = with_tables(old, read_all(RESULTS), where=PAGE)
    if new != old:
        write_whole(PAGE, new.encode())
    print(f"{PAGE}: {'written' if new != old else 'is as the entries say'}")


if __name__ == "__main__":
    try:
        main()
    except ServaxError as error:
        sys.exit(str(error))
