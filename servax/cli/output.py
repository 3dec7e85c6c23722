"""What the command line shows: tables, JSON, progress bars with the time left."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from servax.files import json_text

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Signs that move the cursor, colour, end a line or turn the text round."""


def visible(text: object) -> str:
    r"""Return a text, such as a file's name, in which no sign rules the terminal.

    An escape is shown as ``\x1b``, the end of a line as ``\n``.
    """
    return CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), str(text))


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    sys.stdout.write(json_text(value, ascii_only=True) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; into a pipe or a file it is as wide as it needs to be."""
    # A cell is text, whatever it looks like: a file may be called "[b].wav".
    console = Console(width=room() or 200, markup=False, emoji=False)
    table = Table(title=visible(title), title_justify="left", show_header=any(columns))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(visible(cell) for cell in row))
    console.print(table)


def show(title: str, rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows as JSON, or as a table below the keys of the first."""
    if as_json:
        print_json(rows)
    else:
        print_table(title, list(rows[0]), [list(row.values()) for row in rows])


def room() -> int | None:
    """Return how many characters a line of the terminal holds; none into a pipe or a file."""
    return Console().width if sys.stdout.isatty() else None


def command_line() -> str:
    """Return the command as it was typed."""
    return shlex.join(["servax", *sys.argv[1:]])


def duration(seconds: float | None) -> str:
    """Return a time for people in its two largest units: `3 h 20 min`, `4 min 10 s`, `12 s`."""
    if seconds is None:
        return "?"
    if seconds < 1:
        return "< 1 s"
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    counts = []
    for unit, size in units:
        count, whole = divmod(whole, size)
        counts.append((count, unit))
    first = next(i for i, (count, _) in enumerate(counts) if count)
    return " ".join(f"{count} {unit}" for count, unit in counts[first : first + 2] if count)


QUIET = "SERVAX_QUIET"
"""A variable of the environment, so that processes that are begun are quiet too."""


def say(sentence: str) -> None:
    """Print a line on stderr, where progress stands too."""
    sys.stderr.write(visible(sentence) + "\n")


def note(sentence: str) -> None:
    """Print a line that tells of no failure, unless nothing else is wanted."""
    if QUIET not in os.environ:
        say(sentence)


@contextmanager
def bar(description: str) -> Iterator[Any]:
    """Show one bar on stderr; yields a callback that takes (done, total)."""
    with progress_bars() as progress:
        task = progress.add_task(description, total=None, note="")

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield update


def progress_bars() -> Progress:
    """Return bars on stderr, each with its share, its time and the time left."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=QUIET in os.environ,
        speed_estimate_period=120.0,
    )
