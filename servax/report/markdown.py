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
    if cell.detail:
        text += f"<br><small>{_safe(cell.detail)}</small>"
    return f"*{text}*" if cell.published else text


def render_table(table: TextTable) -> str:
    """Return one table with its heading and note."""
    lines = [f"## {_safe(table.title)}", ""]
    if table.note:
        lines += [_safe(table.note), ""]
    lines.append("| " + " | ".join(map(_head, table.head)) + " |")
    numbers = 0 if table.prose else len(table.head) - table.columns_named
    lines.append("|" + "---|" * (len(table.head) - numbers) + "---:|" * numbers)
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
        *([" ".join(map(_safe, content.opening))] if content.opening else []),
        *(["\n".join(f"- {_safe(text)}" for text in content.terms)] if content.terms else []),
        verdict,
        header,
        *map(render_table, content.tables),
        *pictures,
        *map(render_table, content.appendix),
        *_card(content),
        *_players(content),
        f"## What the words mean\n\n{words}",
    ]
    return "\n\n".join(parts) + "\n"


def _card(content: Content) -> list[str]:
    if not content.card:
        return []
    rows = "\n".join(f"- {_safe(name)}: {_safe(value)}" for name, value in content.card)
    return [f"## Evaluation card\n\n{rows}"]


def _players(content: Content) -> list[str]:
    """Return what the sounds of the HTML page are taken for, as a table."""
    rows = tuple(
        (Cell(group.title), Cell(each.kind), Cell(each.system), Cell(each.prediction))
        for group in content.players
        for each in group.players
    )
    if not rows:
        return []
    table = TextTable(
        title="Sounds and what they are taken for",
        note="report.html plays them.",
        head=tuple(map(Head, ("recording", "sound", "system", "taken for"))),
        rows=rows,
        prose=True,
    )
    return [render_table(table)]
