"""What a command does when several processes train together: one of them speaks and writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from servax.cli.output import bar, say
from servax.training import current


@contextmanager
def main_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show one bar on stderr, in the main process only; yields a callback for (done, total)."""
    if not current().main:
        yield lambda done, total: None
        return
    with bar(description) as update:
        yield update


def main_say(sentence: str) -> None:
    """Print a line on stderr, in the main process only."""
    if current().main:
        say(sentence)


@contextmanager
def folder_of_main(out: str) -> Iterator[Path]:
    """Yield the folder `out` to the main process; what the others write is thrown away."""
    if current().main:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="servax-") as folder:
        yield Path(folder)
