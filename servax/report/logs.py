"""Training logs as curves: JSON lines, one flat object of terms per line.

``{"epoch": 3, "train/loss": 0.41, "validation/loss": 0.52, "validation/uar": 0.61}``. Terms that
differ only in the part before the last ``/`` belong into one picture. A run that was killed and
resumed writes an epoch twice: the later line counts. Its last line may be cut short: it is left
out, since nothing else of it was used either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from servax.errors import PathError, ServaxError

__all__ = ["Curves", "curves"]

Curves = Mapping[str, Mapping[str, Mapping[float, float]]]
"""term (``loss``) → part (``train``) → epoch → value."""


def curves(path: str | Path) -> Curves:
    """Return the numeric terms of a log, by term and part.

    Raises:
        ServaxError: no such file, a line that is not a JSON object with an ``epoch``, or no term.
    """
    source = Path(path)
    if not source.is_file():
        raise PathError(source, "no such file, expected a training log (.jsonl)")
    found: dict[str, dict[str, dict[float, float]]] = {}
    lines = source.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        terms = _terms(source, number, line, is_last=number == len(lines))
        for name, value in terms.items():
            part, _, term = name.rpartition("/")
            if name != "epoch" and _is_number(value):
                found.setdefault(term, {}).setdefault(part, {})[float(terms["epoch"])] = value
    if not found:
        raise ServaxError(f"{source}: no numeric term in it, expected lines such as {_EXAMPLE}.")
    return found


_EXAMPLE = '{"epoch": 1, "train/loss": 0.4}'


def _terms(source: Path, number: int, line: str, *, is_last: bool) -> dict[str, float]:
    try:
        terms = json.loads(line)
    except ValueError:
        terms = None
        if is_last:
            return {}
    if not isinstance(terms, dict) or not _is_number(terms.get("epoch")):
        raise ServaxError(
            f"{source}: line {number} is not a JSON object with an epoch, "
            f"expected lines such as {_EXAMPLE}."
        )
    return terms


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
