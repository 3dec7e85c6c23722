"""Write a report: records in, ``report.md``, ``report.html`` and ``figures/*.png`` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servax.evaluation.records import Records, write_atomically
from servax.report import html, markdown
from servax.report.content import build
from servax.report.examples import Examples

__all__ = ["ReportPaths", "write_report"]


@dataclass(frozen=True)
class ReportPaths:
    """Where the parts of a report lie."""

    markdown: Path
    """``report.md``."""
    html: Path
    """``report.html``, which needs no other file."""
    figures: tuple[Path, ...]
    """The pictures that ``report.md`` shows."""


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
    content = build(records, examples=examples, logs=logs or {})
    pages = {"report.md": markdown.render(content), "report.html": html.render(content)}
    target = Path(folder)
    pictures = []
    for picture in content.pictures:
        path = target / "figures" / f"{picture.name}.png"
        write_atomically(path, picture.png)
        pictures.append(path)
    for name, text in pages.items():
        write_atomically(target / name, text.encode("utf-8"))
    return ReportPaths(target / "report.md", target / "report.html", tuple(pictures))
