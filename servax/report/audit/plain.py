"""JSON values as people read them, on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from servax.report.wording import MISSING

__all__ = ["plain"]

_SHOWN = 12
"""So many entries of a list are printed; `audit.json` has all."""


def plain(value: Any) -> str:
    """Return a JSON value as one line of text; long lists are cut, and say how long they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple):
        return _list(value)
    if value is None or pd.isna(value):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mapping(values: Mapping[Any, Any]) -> str:
    sentences = any(isinstance(part, str) and " " in part for part in values.values())
    told = [f"{_name(name)}{':' * sentences} {_inner(part)}" for name, part in values.items()]
    return ("; " if sentences else ", ").join(told) or MISSING


def _list(values: Sequence[Any]) -> str:
    between = "; " if any(isinstance(value, Mapping) for value in values) else ", "
    told = between.join(plain(value) for value in values[:_SHOWN])
    return f"{told}, … ({len(values)} in all)" if len(values) > _SHOWN else told or MISSING


def _inner(value: Any) -> str:
    return f"({plain(value)})" if isinstance(value, Mapping | list | tuple) else plain(value)


def _name(name: object) -> str:
    return str(name).replace("_", " ")
