"""Write a report: records in, pages, pictures and tables for papers and programs out.

``report.md`` and ``report.html`` for people, ``figures/*.png``, ``tables/*.tex`` (booktabs) and
``tables/*.csv`` (every number in full precision, one per row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from servax.evaluation.records import Records
from servax.files import write_whole
from servax.report import html, latex, markdown
from servax.report.content import Content, build
from servax.report.examples import Examples

__all__ = ["ReportPaths", "write_content", "write_report"]


@dataclass(frozen=True)
class ReportPaths:
    """Where the parts of a report lie."""

    markdown: Path
    """``report.md``."""
    html: Path
    """``report.html``, which needs no other file."""
    figures: tuple[Path, ...]
    """The pictures that ``report.md`` shows."""
    latex: tuple[Path, ...] = ()
    """``tables/*.tex``, one tabular each."""
    csv: tuple[Path, ...] = ()
    """``tables/*.csv``, tidy numbers."""


def write_report(
    records: Records,
    folder: str | Path,
    *,
    examples: Examples | None = None,
    logs: Mapping[str, Path] | None = None,
) -> ReportPaths:
    """Write the report of `records` into `folder`; each file appears whole or not at all.

    Everything is computed before the first file is written, and the pages come last, so a page
    never shows a picture that is not there.

    Args:
        records: predictions with provenance, of one corpus and one target.
        folder: made when it does not exist; files of an earlier report are replaced.
        examples: an utterance for the spectrogram figure.
        logs: name → training log (JSON lines), one figure each.

    Returns:
        The paths written.

    Raises:
        ServaxError, SettingError: see `servax.report.content.build`.
    """
    return write_content(build(records, examples=examples, logs=logs or {}), Path(folder))


def write_content(content: Content, folder: Path) -> ReportPaths:
    """Write pages, pictures and tables of `content` into `folder`, the pages last."""
    pages = {"report.md": markdown.render(content), "report.html": html.render(content)}
    texts, numbers = _tables(content)
    written = [
        _written(folder / "figures" / f"{picture.name}.png", picture.png)
        for picture in content.pictures
    ]
    latex_paths = [
        _written(folder / "tables" / f"{name}.tex", _encoded(text)) for name, text in texts.items()
    ]
    csv_paths = [
        _written(folder / "tables" / f"{name}.csv", _encoded(text))
        for name, text in numbers.items()
    ]
    for name, text in pages.items():
        _written(folder / name, _encoded(text))
    return ReportPaths(
        folder / "report.md",
        folder / "report.html",
        tuple(written),
        tuple(latex_paths),
        tuple(csv_paths),
    )


def _tables(content: Content) -> tuple[dict[str, str], dict[str, str]]:
    """Return file name → LaTeX of each table, and file name → CSV of all numbers."""
    texts: dict[str, str] = {}
    numbers = {name: _csv(frame) for name, frame in content.numbers}
    for table in (*content.tables, *content.appendix):
        name, again = table.file_name, 2
        while name in texts:
            name, again = f"{table.file_name}-{again}", again + 1
        texts[name] = latex.render(table)
        if table.numbers is not None:
            numbers[name] = _csv(table.numbers)
    return texts, numbers


def _csv(frame: pd.DataFrame) -> str:
    """Return CSV in which every number reads back as it was."""
    return frame.to_csv(index=False, lineterminator="\n")


def _encoded(text: str) -> bytes:
    """Return UTF-8, in which a file name that is not keeps its bytes as escapes."""
    return text.encode("utf-8", "backslashreplace")


def _written(path: Path, data: bytes) -> Path:
    write_whole(path, data)
    return path
