"""The evaluation card as names and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servax.report.audit.plain import plain

__all__ = ["card_rows", "facts"]

_FACTS = ("command", "machine", "commit", "seeds")
"""What stands below the title, as in every report."""


def card_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of each entry, those of a group (``attacks · pgd``) one by one."""
    rows = []
    for name, value in card.items():
        title = name.replace("_", " ")
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            rows += [(f"{title} · {inner}", plain(part)) for inner, part in value.items()]
        else:
            rows.append((title, plain(value)))
    return rows


def facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the few entries that stand on top."""
    return [(name, plain(card[name])) for name in _FACTS if name in card]
