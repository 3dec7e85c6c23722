"""What the command line shows: tables, JSON, progress bars with the time left."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
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
    table = Table(title=visible(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(visible(cell) for cell in row))
    console.print(table)


def room() -> int | None:
    """Return how many characters a line of the terminal holds; none into a pipe or a file."""
    return Console().width if sys.stdout.isatty() else None


def say(sentence: str) -> None:
    """Print a line on stderr, where progress stands too."""
    sys.stderr.write(visible(sentence) + "\n")


@contextmanager
def bar(description: str) -> Iterator[Any]:
    """Show one bar on stderr; yields a callback that takes (done, total)."""
    with _progress() as progress:
        task = progress.add_task(description, total=None, note="")

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield update


class RunBars:
    """Bars of a run: the whole with its estimate, and the stage at work.

    The estimate weighs each stage by its expected cost and learns the speed of this machine from
    what is done.
    """

    def __init__(self) -> None:
        self._progress = _progress()
        self._costs: dict[str, float] = {}
        self._whole: TaskID | None = None
        self._stage: TaskID | None = None
        self._total = 0.0
        self._share = 0.0
        self._spent = 0.0

    def __enter__(self) -> RunBars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        """Open the bar of the whole run."""
        self._costs = dict(stages)
        self._total = sum(self._costs.values())
        self._whole = self._progress.add_task(
            "whole run", total=self._total, note=f"{len(stages)} stages"
        )

    def start(self, stage: str, steps: int) -> None:
        """Open the bar of a stage."""
        self._stage = self._progress.add_task(stage, total=steps, note="")
        self._share, self._spent = self._costs.get(stage, 0.0) / max(1, steps), 0.0

    def advance(self, note: str = "") -> None:
        """Move both bars by one step."""
        if self._stage is not None:
            self._progress.update(self._stage, advance=1, note=note)
        if self._whole is not None:
            self._progress.update(self._whole, advance=self._share)
            self._spent += self._share

    def finish(self, stage: str, *, cached: bool) -> None:
        """Close the bar of a stage; early stopping gives its time back to the whole."""
        if self._whole is not None:
            rest = self._costs.get(stage, 0.0) - (0.0 if cached else self._spent)
            # Work that is not done takes no time: it leaves the total instead of counting as done.
            self._total = max(0.0, self._total - rest)
            self._progress.update(self._whole, total=self._total)
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None
        self._progress.console.print(f"{stage}: {'already done' if cached else 'done'}")


def _progress() -> Progress:
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
        speed_estimate_period=120.0,
    )
