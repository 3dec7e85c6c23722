r"""A report as files: Markdown, one HTML page that needs nothing else, LaTeX and CSV of each table.

``report.md`` and ``report.html`` for people, ``figures/*.png``, ``tables/*.tex`` (one booktabs
``tabular`` each, ready for ``\input``) and ``tables/*.csv`` (every number in full precision, one
per row). All text is escaped; in LaTeX, signs that it does not know become its own commands, so
that pdfLaTeX, XeLaTeX and LuaLaTeX read a file alike. The page holds no script, no font and no
picture from outside.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
from jinja2 import Environment, StrictUndefined

from servax.files import write_whole
from servax.report.tables import Cell, Head, Table

__all__ = [
    "Content",
    "Picture",
    "Player",
    "ReportPaths",
    "csv",
    "latex",
    "markdown",
    "markdown_table",
    "wav",
    "write_content",
]


@dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    name: str
    """File name without ``.png``."""
    title: str
    """Heading."""
    caption: str
    """What one sees."""
    png: bytes = field(repr=False)
    """The image."""


@dataclass(frozen=True)
class Player:
    """A sound to listen to, and what a system takes it for."""

    recording: str
    """Name of the recording and its true class; the sounds of one stand together."""
    kind: str
    """What was done to it."""
    system: str
    """Who was asked."""
    prediction: str
    """The answer."""
    right: bool
    """Whether that is the true class."""
    wav: bytes = field(repr=False)
    """The sound as a WAV file."""


@dataclass(frozen=True)
class Content:
    """All that a report says, before it is written in any form."""

    title: str
    """Heading of the whole."""
    verdict: tuple[str, ...]
    """Findings; the first sentence says what the adaptive attacker leaves."""
    header: tuple[tuple[str, str], ...]
    """Name and value of what the numbers come from."""
    tables: tuple[Table, ...]
    """Main tables, in order."""
    appendix: tuple[Table, ...]
    """Long tables for the end."""
    pictures: tuple[Picture, ...]
    """Figures, in order."""
    definitions: tuple[str, ...]
    """What the words mean."""
    first: tuple[str, ...] = ()
    """Tables and ``figures/…`` that the HTML page shows first, in order; the rest is folded."""
    numbers: tuple[tuple[str, pd.DataFrame], ...] = ()
    """Name and tidy numbers of CSV files that belong to no table."""
    card: tuple[tuple[str, str], ...] = ()
    """Name and value of an evaluation card; on the HTML page it stands for the header's list."""
    players: tuple[Player, ...] = ()
    """Sounds to listen to, by recording."""
    opening: tuple[str, ...] = ()
    """The verdict for people who know no term; it stands first."""
    terms: tuple[str, ...] = ()
    """What the words of the verdict mean, before these are used."""


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


def write_content(content: Content, folder: Path) -> ReportPaths:
    """Write a report into `folder`; each file appears whole or not at all.

    Everything is rendered before the first file is written, and the pages come last, so a page
    never shows a picture that is not there.
    """
    figures = {f"{picture.name}.png": picture.png for picture in content.pictures}
    texts, numbers = {}, {f"{name}.csv": csv(frame) for name, frame in content.numbers}
    for table in (*content.tables, *content.appendix):
        name, again = table.file_name, 2
        while f"{name}.tex" in texts:
            name, again = f"{table.file_name}-{again}", again + 1
        texts[f"{name}.tex"] = latex(table)
        if table.numbers is not None:
            numbers[f"{name}.csv"] = csv(table.numbers)
    pages = {"report.md": markdown(content), "report.html": html(content)}
    parts: list[tuple[str, Mapping[str, str | bytes]]] = [
        ("figures", figures),
        ("tables", texts | numbers),
        ("", pages),
    ]
    for part, files in parts:
        for name, data in files.items():
            # A file name that is not UTF-8 keeps its bytes as escapes.
            told = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
            write_whole(folder / part / name, told)
    return ReportPaths(
        folder / "report.md",
        folder / "report.html",
        tuple(folder / "figures" / name for name in figures),
        tuple(folder / "tables" / name for name in texts),
        tuple(folder / "tables" / name for name in numbers),
    )


def csv(frame: pd.DataFrame) -> str:
    """Return CSV in which every number reads back as it was."""
    return frame.to_csv(index=False, lineterminator="\n")


def html(content: Content) -> str:
    """Return the whole report as one HTML page."""
    source = resources.files("servax.report").joinpath("page.html.jinja").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.from_string(source).render(content=content)


def wav(waveform: npt.NDArray[np.floating], sample_rate: int) -> bytes:
    """Return samples (T,), full scale ±1, as a 16-bit WAV file; what lies beyond is clipped.

    Read back, each sample is the nearest that 16 bit have.
    """
    steps = np.rint(np.asarray(waveform, dtype=np.float64) * 2**15)
    samples = np.clip(steps, -(2**15), 2**15 - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _safe(text: str) -> str:
    """Return text that neither breaks a table nor is taken for markup."""
    flat = re.sub(r"[\\|`*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    return flat.replace("&", "&amp;").replace("<", "&lt;")


def _points(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {_safe(line)}" for line in lines)


def _pairs(rows: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(f"- {_safe(name)}: {_safe(value)}" for name, value in rows)


def markdown(content: Content) -> str:
    """Return the whole report as Markdown (GitHub's dialect), with pictures in ``figures/``."""
    first, *others = content.verdict
    rows = (
        (Cell(p.recording), Cell(p.kind), Cell(p.system), Cell(p.prediction))
        for p in content.players
    )
    sounds = Table(
        title="Sounds and what they are taken for",
        note="report.html plays them.",
        head=tuple(map(Head, ("recording", "sound", "system", "taken for"))),
        rows=tuple(rows),
        prose=True,
    )
    parts = [
        f"# {_safe(content.title)}",
        " ".join(map(_safe, content.opening)),
        _points(content.terms),
        " ".join([f"**{_safe(first)}**", *map(_safe, others)]),
        _pairs(content.header),
        *map(markdown_table, content.tables),
        *(
            f"## {_safe(each.title)}\n\n![{_safe(each.title)}](figures/{each.name}.png)"
            f"\n\n{_safe(each.caption)}"
            for each in content.pictures
        ),
        *map(markdown_table, content.appendix),
        f"## Evaluation card\n\n{_pairs(content.card)}" if content.card else "",
        markdown_table(sounds) if content.players else "",
        f"## What the words mean\n\n{_points(content.definitions)}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_table(table: Table) -> str:
    """Return one table as Markdown with its heading and note."""

    def told(cell: Cell) -> str:
        text = f"**{_safe(cell.text)}**" if cell.best else _safe(cell.text)
        if cell.detail:
            text += f"<br><small>{_safe(cell.detail)}</small>"
        return f"*{text}*" if cell.published else text

    numbers = 0 if table.prose else len(table.head) - table.columns_named
    heads = (_safe(f"{h.text} ({h.detail})" if h.detail else h.text) for h in table.head)
    return "\n".join(
        [
            f"## {_safe(table.title)}\n",
            *([f"{_safe(table.note)}\n"] if table.note else []),
            "| " + " | ".join(heads) + " |",
            "|" + "---|" * (len(table.head) - numbers) + "---:|" * numbers,
            *("| " + " | ".join(map(told, row)) + " |" for row in table.rows),
        ]
    )


_SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"''",
    "[": "{[}",  # after a line break, TeX would read what follows as its length
    "]": "{]}",
    "*": "{*}",  # and this as its starred form
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\to$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "…": r"\ldots{}",
    "†": r"$\dagger$",
    "·": r"$\cdot$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "ε": r"$\varepsilon$",
    "σ": r"$\sigma$",
    "²": r"$^2$",
    "\N{NO-BREAK SPACE}": "~",
}
_SPECIAL = re.compile("|".join(map(re.escape, _SIGNS)))


def escaped(text: str) -> str:
    """Return text as LaTeX prints it, on one line."""
    # A no-break space is white space to split(); only real line breaks and runs may go.
    flat = re.sub(r"[ \t\r\n\f\v]+", " ", text).strip(" ")
    return _SPECIAL.sub(lambda found: _SIGNS[found[0]], flat)


def latex(table: Table) -> str:
    """Return a complete file: a comment that says what it is, then one ``tabular``."""

    def told(cell: Cell) -> str:
        text = rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)
        return rf"\textit{{{text}}}" if cell.published else text

    heads = [escaped(head.text) for head in table.head]
    small = [rf"{{\scriptsize {escaped(h.detail)}}}" if h.detail else "" for h in table.head]
    frame = pd.DataFrame([[told(cell) for cell in row] for row in table.rows], dtype=object)
    frame = frame.reindex(columns=range(len(heads)))
    frame.columns = pd.MultiIndex.from_arrays([heads, small]) if any(small) else pd.Index(heads)
    comments = [" ".join(text.split()) for text in (table.title, table.note) if text]
    comments.append(r"Needs \usepackage{booktabs}.")
    code = frame.style.hide(axis="index").to_latex(
        hrules=True, sparse_columns=False, column_format="l" + "r" * (len(heads) - 1)
    )
    return "".join(f"% {line}\n" for line in comments) + code
