"""A report as Markdown (GitHub's dialect), with pictures in ``figures/``."""

from __future__ import annotations

import re

from servax.report.cells import Cell, Head, TextTable
from servax.report.content import Content

__all__ = ["render", "render_table"]


def _safe(text: str) -> str:
    """Return text that neither breaks a table nor is taken for markup."""
    flat = re.sub(r"[\\|`*]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
    return flat.replace("&", "&amp;").replace("<", "&lt;")


def _head(head: Head) -> str:
    return _safe(f"{head.text} ({head.detail})" if head.detail else head.text)


def _cell(cell: Cell) -> str:
    text = f"**{_safe(cell.text)}**" if cell.best else _safe(cell.text)
    return f"*{text}*" if cell.published else text


def render_table(table: TextTable) -> str:
    """Return one table with its heading and note."""
    lines = [f"## {_safe(table.title)}", ""]
    if table.note:
        lines += [_safe(table.note), ""]
    lines.append("| " + " | ".join(map(_head, table.head)) + " |")
    lines.append("|---|" + "---:|" * (len(table.head) - 1))
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
    return "\n".join(lines)


def render(content: Content) -> str:
    """Return the whole report."""
    header = "\n".join(f"- {_safe(name)}: {_safe(value)}" for name, value in content.header)
    first, *others = content.verdict
    verdict = " ".join([f"**{_safe(first)}**", *map(_safe, others)])
    pictures = [
        f"## {_safe(picture.title)}\n\n![{_safe(picture.title)}](figures/{picture.name}.png)"
        f"\n\n{_safe(picture.caption)}"
        for picture in content.pictures
    ]
    words = "\n".join(f"- {_safe(text)}" for text in content.definitions)
    parts = [
        f"# {_safe(content.title)}",
        verdict,
        header,
        *map(render_table, content.tables),
        *pictures,
        *map(render_table, content.appendix),
        f"## What the words mean\n\n{words}",
    ]
    return "\n\n".join(parts) + "\n"
