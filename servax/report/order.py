"""The order of defences in every table, and which families they belong to.

As in the paper's Table 1: adversarial training first, then SSAD; after them what the paper has
not, the controls, and the undefended target last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["UNDEFENDED", "family", "in_order"]

UNDEFENDED = "undefended"

_TRAINED = re.compile(r"adversarial-(similarity|vanilla)-([0-9.e-]+)")
_ORDER = ("similarity", "vanilla", "pgd-at", "trades", "ssad", "control", UNDEFENDED)
_FIRST_SSAD = ("ssad", "ssad-residual")


def family(defence: str) -> str:
    """Return the family of a defence.

    One of ``similarity``, ``vanilla``, ``pgd-at``, ``trades``, ``ssad``, ``undefended``; whatever
    is none of these is a ``control``: noise, filters, quantising.
    """
    trained = _TRAINED.fullmatch(defence)
    if trained:
        return trained[1]
    if defence == "ssad" or defence.startswith("ssad-"):
        return "ssad"
    return defence if defence in ("pgd-at", "trades", UNDEFENDED) else "control"


def in_order(defences: Iterable[str]) -> tuple[str, ...]:
    """Return `defences`, each once, in the order of the tables."""
    return tuple(sorted(set(defences), key=_key))


def _key(defence: str) -> tuple[int, int, float, str]:
    kind = family(defence)
    trained = _TRAINED.fullmatch(defence)
    within = _FIRST_SSAD.index(defence) if defence in _FIRST_SSAD else len(_FIRST_SSAD)
    return _ORDER.index(kind), within, _epsilon(trained[2]) if trained else 0.0, defence


def _epsilon(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
