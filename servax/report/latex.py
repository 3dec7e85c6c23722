r"""A table as LaTeX: one ``tabular`` with the rules of booktabs, ready for ``\input``.

Nothing but ``\usepackage{booktabs}`` is needed. All text is escaped; signs that plain LaTeX does
not know become its own commands, so that pdfLaTeX, XeLaTeX and LuaLaTeX read the file alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from servax.report.cells import Cell, Head, TextTable

__all__ = ["escape", "render"]

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


def escape(text: str) -> str:
    """Return text as LaTeX prints it, on one line."""
    # A no-break space is white space to split(); only real line breaks and runs may go.
    flat = re.sub(r"[ \t\r\n\f\v]+", " ", text).strip(" ")
    return _SPECIAL.sub(lambda found: _SIGNS[found[0]], flat)


def render(table: TextTable) -> str:
    """Return a complete file: a comment that says what it is, then one ``tabular``."""
    lines = [
        f"% {_comment(table.title)}",
        *([f"% {_comment(table.note)}"] if table.note else []),
        r"% Needs \usepackage{booktabs}.",
        rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
        r"\toprule",
        *_heading(table.head),
        r"\midrule",
        *(_row(map(_cell, row)) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _heading(head: tuple[Head, ...]) -> list[str]:
    """Return the line of headings and, where one has a detail, a smaller second line."""
    lines = [_row(escape(each.text) for each in head)]
    if any(each.detail for each in head):
        small = (rf"{{\scriptsize {escape(each.detail)}}}" if each.detail else "" for each in head)
        lines.append(_row(small))
    return lines


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    return rf"\textit{{{text}}}" if cell.published else text


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _comment(text: str) -> str:
    return " ".join(text.split())
