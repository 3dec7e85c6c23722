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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray

from servax.errors import SettingError, ShapeError
from servax.files import write_whole
from servax.report.tables import Cell, Head, Table

Pairs = tuple[tuple[str, str], ...]
"""Names and values."""


@dataclass(frozen=True)
class Picture:
    """A figure with its words."""

    kind: ClassVar[str] = "picture"
    name: str
    """File name without ``.png``."""
    title: str
    """Heading."""
    caption: str
    """What one sees."""
    png: bytes = field(repr=False)
    """The image."""

    @property
    def place(self) -> str:
        """Its file, without the ending."""
        return f"figures/{self.name}"


Kind = Literal["clean", "attacked", "purified"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which they are played."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A sound to listen to, and what a system takes it for."""

    title: str
    """A few words."""
    utterance: str
    """Name of the recording; the clips of one stand together."""
    label: str
    """True class."""
    system: str
    """Name of the system that was asked."""
    prediction: str
    """What it takes the sound for."""
    kind: Kind
    """`clean`, `attacked` or `purified`."""
    sample_rate: int
    """In hertz."""
    waveform: NDArray[np.float32]
    """Samples (T,), full scale ±1; the page holds them as 16 bit, and clips beyond."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError.choice("kind", self.kind, KINDS)
        if self.waveform.ndim != 1 or not self.waveform.size:
            raise ShapeError("waveform", self.waveform.shape, "(T,), at least one sample")
        if not np.isfinite(self.waveform).all():
            raise SettingError("waveform", "NaN or infinite somewhere", "finite samples")
        if self.sample_rate < 1:
            raise SettingError("sample_rate", self.sample_rate, "a whole number of hertz >= 1")

    @property
    def recording(self) -> str:
        """The recording with its true class."""
        return f"{self.utterance} (true class {self.label})"

    @property
    def wav(self) -> bytes:
        """The sound as a 16-bit WAV file; read back, each sample is the nearest that 16 bit have.

        What lies beyond full scale is clipped.
        """
        steps = np.rint(self.waveform.astype(np.float64) * 2**15)
        samples = np.clip(steps, -(2**15), 2**15 - 1).astype(np.int16)
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, self.sample_rate, format="WAV", subtype="PCM_16")
        return buffer.getvalue()


@dataclass(frozen=True)
class Sounds:
    """Sounds that the HTML page plays."""

    kind: ClassVar[str] = "sounds"
    title: ClassVar[str] = "Sounds and what they are taken for"
    place: ClassVar[str] = "sounds"
    clips: tuple[Clip, ...]
    """Those of one recording together."""


@dataclass(frozen=True)
class Prose:
    """Sentences, or names with their values, as a list."""

    kind: ClassVar[str] = "prose"
    place: ClassVar[str] = ""
    title: str
    """Heading."""
    sentences: tuple[str, ...] = ()
    """One for each point."""
    pairs: Pairs = ()
    """Name and value for each point."""


Section = Table | Picture | Sounds | Prose


@dataclass(frozen=True)
class Report:
    """All that a report says, before it is written in any form."""

    title: str
    """Heading of the whole."""
    findings: tuple[str, ...]
    """The first sentence says what the adaptive attacker leaves."""
    provenance: Pairs
    """What the numbers come from."""
    sections: tuple[Section, ...]
    """Tables, figures, sounds and prose, in order."""
    first: tuple[str, ...]
    """Places of the sections that the HTML page shows first; the rest is folded."""
    opening: tuple[str, ...] = ()
    """The findings for people who know no term; it stands first."""
    terms: tuple[str, ...] = ()
    """What the words of the findings mean, before these are used."""
    files: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)
    """What belongs to the report beside its sections, by path in its folder."""


class ReportPaths(NamedTuple):
    """Where a report lies: its folder holds ``figures/*.png``, ``tables/*.tex`` and ``.csv``."""

    folder: Path

    @property
    def markdown(self) -> Path:
        """``report.md``."""
        return self.folder / "report.md"

    @property
    def html(self) -> Path:
        """``report.html``, which needs no other file."""
        return self.folder / "report.html"


def write(report: Report, folder: Path) -> ReportPaths:
    """Write a report into `folder`; each file appears whole or not at all.

    Everything is rendered before the first file is written, and the pages come last, so a page
    never shows a picture that is not there.
    """
    files: dict[str, str | bytes] = {}
    for section in report.sections:
        if isinstance(section, Picture):
            files[f"{section.place}.png"] = section.png
        elif isinstance(section, Table):
            place, again = section.place, 2
            while f"{place}.tex" in files:
                place, again = f"{section.place}-{again}", again + 1
            files[f"{place}.tex"] = latex(section)
            if section.numbers is not None:
                files[f"{place}.csv"] = csv(section.numbers)
    pages = {"report.md": markdown(report), "report.html": html(report)}
    for name, data in {**files, **report.files, **pages}.items():
        # A file name that is not UTF-8 keeps its bytes as escapes.
        told = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        write_whole(folder / name, told)
    return ReportPaths(folder)


def csv(frame: pd.DataFrame) -> str:
    """Return CSV in which every number reads back as it was."""
    return frame.to_csv(index=False, lineterminator="\n")


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("servax", "report"),
        autoescape=".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template(name)


def html(report: Report) -> str:
    """Return the whole report as one HTML page, what a reader came for first and open."""
    opened = [s for place in report.first for s in report.sections if s.place == place]
    folded: list[Section] = [s for s in report.sections if s.place not in report.first]
    if not any(isinstance(s, Prose) and s.pairs for s in folded):
        folded.append(Prose("Settings and provenance", pairs=report.provenance))
    return _template("page.html.jinja").render(report=report, opened=opened, folded=folded)


def words(of: str, **values: Any) -> tuple[str, ...]:
    """Return what the words of a report mean: the entries of a list in ``words.jinja``.

    Args:
        of: Name of the list.
        **values: What its entries speak of; some stand only where that is so.
    """
    told = getattr(_template("words.jinja").module, of)(**values)
    # A no-break space is white space to split(); only those between words and lines may go.
    entries = (re.sub(r"[ \n]+", " ", entry.strip("\n")) for entry in told.split("\n\n"))
    return tuple(filter(None, entries))


def _safe(text: str) -> str:
    """Return text that neither breaks a table nor is taken for markup."""
    flat = re.sub(r"[\\|`*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    return flat.replace("&", "&amp;").replace("<", "&lt;")


def _points(lines: Iterable[str], pairs: Pairs = ()) -> str:
    told = [*map(_safe, lines), *(f"{_safe(name)}: {_safe(value)}" for name, value in pairs)]
    return "\n".join(f"- {line}" for line in told)


def markdown(report: Report) -> str:
    """Return the whole report as Markdown (GitHub's dialect), with pictures in ``figures/``."""
    first, *others = report.findings
    parts = [
        f"# {_safe(report.title)}",
        " ".join(map(_safe, report.opening)),
        _points(report.terms),
        " ".join([f"**{_safe(first)}**", *map(_safe, others)]),
        _points((), report.provenance),
        *map(_markdown_section, report.sections),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _markdown_section(section: Section) -> str:
    title = _safe(section.title)
    if isinstance(section, Picture):
        return f"## {title}\n\n![{title}]({section.place}.png)\n\n{_safe(section.caption)}"
    if isinstance(section, Prose):
        return f"## {title}\n\n{_points(section.sentences, section.pairs)}"
    if isinstance(section, Sounds):
        told = ((c.recording, c.kind, c.system, c.prediction) for c in section.clips)
        heads = tuple(map(Head, ("recording", "sound", "system", "taken for")))
        rows = tuple(tuple(map(Cell, row)) for row in told)
        return _markdown_table(
            Table(section.title, "report.html plays them.", heads, rows, prose=True)
        )
    return _markdown_table(section)


def _markdown_table(table: Table) -> str:
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


_SIGNS = {sign: rf"\{sign}" for sign in "&%$#_{}"}
_SIGNS |= {
    "\\": r"\textbackslash{}",
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
    "…": r"\ldots{}",
    "²": r"$^2$",
    "\N{NO-BREAK SPACE}": "~",
}
_MATHS = {"±": "pm", "×": "times", "→": "to", "≤": "leq", "≥": "geq", "†": "dagger", "·": "cdot"}
_MATHS |= {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "σ": "sigma"}
_SIGNS |= {sign: rf"$\{name}$" for sign, name in _MATHS.items()}
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
