"""Tables as they are printed: a tidy frame, and which of its numbers stand where, written how."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from servax.evaluation.records import UNDEFENDED

MISSING = "–"
Row = Mapping[Hashable, Any]
"""A row of a tidy frame."""


class Head(NamedTuple):
    """Heading of a column, with a second line in small type."""

    text: str
    detail: str = ""


class Cell(NamedTuple):
    """One entry of a table."""

    text: str
    best: bool = False
    """Best of its column: bold."""
    published: bool = False
    """From the paper, not from the records: italic."""
    detail: str = ""
    """More of it, in small type below; folded away on the HTML page."""
    mark: str = ""
    """Kind of entry that the HTML page colours: `error`, `warning`, …"""


class Field(NamedTuple):
    """A column of a printed table: which numbers of a tidy frame it shows, and how."""

    head: Head
    text: Callable[[Row], str | Cell]
    """How a row of the frame is written."""
    where: Hashable = None
    """Key of the rows of the frame that it shows; of a frame without keys it shows every row."""
    best: str = ""
    """Number whose best is bold, rounded to `digits` as it is printed; none for no best."""
    digits: int = 1
    lowest: bool = False
    """Whether low is good."""
    published: Callable[[Row], str] = lambda row: MISSING
    """What the paper has there."""


@dataclass(frozen=True)
class Table:
    """A table as it is printed."""

    kind: ClassVar[str] = "table"
    title: str
    """Heading."""
    note: str
    """A sentence below the heading; may be empty."""
    head: tuple[Head, ...]
    """One per column, the first over the row names."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells by row; the first names the row."""
    name: str = ""
    """File name without ending; made from the title when left out."""
    numbers: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    """The same in full precision, one value per row (tidy), for the CSV file."""
    prose: bool = False
    """Whether entries are sentences: aligned left, and wrapped."""
    columns_named: int = 1
    """How many columns, from the left, hold names rather than numbers."""
    dense: bool = False
    """Whether the HTML page sets it in small type, as it does any table of many columns."""
    tall: bool = False
    """Whether the HTML page shows it in a frame of its own that scrolls."""

    @property
    def place(self) -> str:
        """Its files without their endings, by its name or else its title: ``tables/intervals``."""
        plain = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode().lower()
        return f"tables/{self.name or re.sub('[^a-z0-9]+', '-', plain).strip('-') or 'table'}"

    @property
    def columns(self) -> list[str]:
        """Headings as plain text."""
        return [head.text for head in self.head]

    @property
    def texts(self) -> list[list[str]]:
        """Entries by row as plain text."""
        return [[cell.text for cell in row] for row in self.rows]


def pivot(
    frame: pd.DataFrame,
    fields: Sequence[Field],
    *,
    first: str = "defence",
    row: str = "defence",
    key: str = "column",
    rows: Sequence[str] = (),
    below: str = "",
    **layout: Any,
) -> Table:
    """Return a table with a row for each name in a column of `frame`, in that order.

    Args:
        frame: Tidy numbers.
        fields: Columns after the first.
        first: Heading of the first column.
        row: Column of the frame that names the rows; as in the paper, only defences compete for
            the best of a column, not the undefended target.
        key: Column of the frame that `Field.where` speaks of; without it each row is its own.
        rows: Names of rows, in order, that stand there whatever the frame holds.
        below: Name of the paper's rows, which stand below ours where the paper has any entry.
        **layout: All else of `Table`.
    """
    lines: dict[str, dict[Hashable, Row]] = {name: {} for name in rows}
    for record in frame.to_dict("records"):
        lines.setdefault(str(record[row]), {})[record[key] if key else None] = record
    columns = [[entries.get(each.where) for entries in lines.values()] for each in fields]
    compete = [name != UNDEFENDED for name in lines]
    best = [_best(each, found, compete) for each, found in zip(fields, columns, strict=True)]
    told = []
    for i, name in enumerate(lines):
        found = [(each, column[i]) for each, column in zip(fields, columns, strict=True)]
        cells = (_cell(*entry)._replace(best=best[j][i]) for j, entry in enumerate(found))
        told.append((Cell(name), *cells))
        theirs = [each.published(entry) if entry else MISSING for each, entry in found]
        if below and set(theirs) != {MISSING}:
            published = (Cell(text, published=text != MISSING) for text in theirs)
            told.append((Cell(below, published=True), *published))
    head = (Head(first), *(each.head for each in fields))
    return Table(head=head, rows=tuple(told), **layout)


def _cell(each: Field, entry: Row | None) -> Cell:
    told = MISSING if entry is None else each.text(entry)
    return Cell(told) if isinstance(told, str) else told


def _best(each: Field, column: Sequence[Row | None], compete: Sequence[bool]) -> list[bool]:
    """Return which entries are the best of those that compete, ties included.

    None is where fewer than two of them were measured, or all read the same.
    """
    measured = [math.nan if not each.best or e is None else float(e[each.best]) for e in column]
    values = [round(value, each.digits) for value in measured]
    among = {v for v, ours in zip(values, compete, strict=True) if ours and math.isfinite(v)}
    top = (min if each.lowest else max)(among) if len(among) > 1 else None
    return [ours and v == top for v, ours in zip(values, compete, strict=True)]


def listing(frame: pd.DataFrame, fields: Sequence[Field], **layout: Any) -> Table:
    """Return a table with a line for each row of `frame`, all of whose columns are `fields`."""
    rows = tuple(
        tuple(_cell(each, record) for each in fields)
        for record in frame.astype(object).to_dict("records")
    )
    layout = {"numbers": frame} | layout
    return Table(head=tuple(each.head for each in fields), rows=rows, **layout)


def number(value: float, *, digits: int = 2) -> str:
    """Return a number with a true minus sign, or a dash when it is not defined."""
    if math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}".replace("-", "−")
    return text[1:] if text.startswith("−") and not float(text[1:]) else text


def short(value: float, digits: int = 6) -> str:
    """Return ``.02`` for 0.02, as the paper writes sizes."""
    text = f"{value:.{digits}g}"
    return text.removeprefix("0") or text


def percentage(value: float) -> str:
    """Return a percentage with one decimal and without its sign, or a dash."""
    return number(value, digits=1)


def signed(value: float) -> str:
    """Return a difference with one decimal and its sign, or a dash."""
    text = percentage(value)
    return f"+{text}" if text != MISSING and not text.startswith("−") and float(text) else text


def percent_sign(value: float) -> str:
    """Return ``59.7 %`` held together by a no-break space, or a dash."""
    return MISSING if math.isnan(value) else f"{percentage(value)}\N{NO-BREAK SPACE}%"


def with_spread(value: float, spread: float, digits: int = 1) -> str:
    """Return ``59.7 ± 1.2``, or the value alone where it has no spread."""
    texts = [number(each, digits=digits) for each in (value, spread)]
    return texts[0] if MISSING in texts else " ± ".join(texts)


def with_interval(value: float, low: float, high: float) -> str:
    """Return ``59.7 [55.0, 63.1]``, or the value alone where it has no interval."""
    ends = "" if math.isnan(low) else f" [{percentage(low)}, {percentage(high)}]"
    return percentage(value) + ends


def listed(parts: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
