"""One perturbation in three units: on the scale [0, 1], in dB, and in the z-scores of [18].

[18] (Ren et al. 2020) attacks log-Mel in standard deviations of a Mel bin. With the dB window, ε on
[0, 1] is ε · window dB, and at 12 dB per standard deviation ε · window / 12 of them (· 6.67 for
80 dB). With the z-score scale ε · width is exact, and the dB depend on the bin: its mean is told
where the provenance has ``scale_sd_db``, the mean standard deviation of a bin in dB (one number, or
one for each fold).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BIN_SD_DB", "Units", "units_of"]

BIN_SD_DB = 12.0
"""Standard deviation of a Mel bin, in dB, at which the paper's ε are those of [18]."""


@dataclass(frozen=True)
class Units:
    """What a change of 1 on the [0, 1] scale is in other units; None where nothing says so."""

    db: float | None
    """In dB (of an average Mel bin, where bins differ)."""
    z: float | None
    """In standard deviations of a Mel bin."""
    exact_z: bool
    """Whether the z-scores are exact (z-score scale) or rest on `BIN_SD_DB`."""

    def told(self, epsilon: float) -> str:
        """Return ε in the other units, ``0.24 dB, z .020``, or ``""``."""
        parts = []
        if self.db is not None:
            mean = "mean\N{NO-BREAK SPACE}" if self.exact_z else ""
            parts.append(f"{mean}{epsilon * self.db:.2f}\N{NO-BREAK SPACE}dB")
        if self.z is not None:
            parts.append(f"z\N{NO-BREAK SPACE}{epsilon * self.z:.3f}".replace("0.", ".", 1))
        return ", ".join(parts)


def units_of(provenance: Mapping[str, Any]) -> Units:
    """Return the units of the scale that `provenance` names (``scale``)."""
    scale = provenance.get("scale")
    if not isinstance(scale, Mapping):
        return Units(None, None, exact_z=False)
    width = _number(scale.get("width_sd"))
    if width is not None:
        sd = _number(provenance.get("scale_sd_db"))
        return Units(None if sd is None else width * sd, width, exact_z=True)
    window = _number(scale.get("window_db"))
    return Units(window, None if window is None else window / BIN_SD_DB, exact_z=False)


def _number(value: object) -> float | None:
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None
