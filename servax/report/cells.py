"""A table as it is printed: headings, entries, the best of a column, and the numbers behind it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from servax.report import tables

__all__ = ["Cell", "Head", "TextTable", "best_of", "rows"]


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


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed."""

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
    def file_name(self) -> str:
        """Return `name`, or the title as a file name: ``uar-by-speaker``."""
        plain = unicodedata.normalize("NFKD", self.title).encode("ascii", "ignore").decode().lower()
        return self.name or re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "table"


def best_of(
    values: Sequence[float], eligible: Sequence[bool], *, lowest: bool = False
) -> list[bool]:
    """Return which entries are the best of a column, ties included.

    Args:
        values: Rounded as they are printed; ``nan`` where nothing was measured.
        eligible: Which rows compete.
        lowest: Whether low is good.

    Returns:
        True for the best of the rows that compete; all False where fewer than two of them were
        measured, or all read the same.
    """
    numbers = np.asarray(values, dtype=np.float64)
    compete = np.asarray(eligible, dtype=bool) & np.isfinite(numbers)
    if np.unique(numbers[compete]).size < 2:
        return [False] * numbers.size
    top = numbers[compete].min() if lowest else numbers[compete].max()
    return [bool(flag) for flag in compete & (numbers == top)]


def rows(
    frame: pd.DataFrame,
    write: Callable[[str, str, float], str],
    *,
    best: Callable[[str], bool] = lambda heading: True,
    eligible: Callable[[str], bool] = lambda row: True,
    lowest: Sequence[str] = (),
) -> tuple[tuple[Cell, ...], ...]:
    """Return cells, bold where a column has its best; `frame` is rounded as it is printed.

    Args:
        frame: Numbers by row name and heading.
        write: (row, heading, number) → text.
        best: Which columns have a best entry.
        eligible: Which rows compete for it.
        lowest: Headings whose best is the lowest.
    """
    compete = [eligible(str(row)) for row in frame.index]
    columns = []
    for heading in map(str, frame.columns):
        values = [tables.value(frame, row, heading) for row in frame.index]
        bold = best_of(values, [best(heading) and c for c in compete], lowest=heading in lowest)
        columns.append(
            [
                Cell(write(str(row), heading, value), flag)
                for row, value, flag in zip(frame.index, values, bold, strict=True)
            ]
        )
    return tuple(
        (Cell(str(row)), *(column[i] for column in columns)) for i, row in enumerate(frame.index)
    )
