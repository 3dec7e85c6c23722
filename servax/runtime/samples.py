"""Samples of any type as float32 with full scale at 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servax.errors import SettingError

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class FullScale:
    """How whole numbers stand for samples: sample = (number - zero) / step."""

    name: str
    """Of the type, in NumPy's words."""
    step: int
    """What 1 is."""
    zero: int = 0
    """What silence is."""

    @property
    def lowest(self) -> int:
        """The smallest number."""
        return self.zero - self.step

    @property
    def highest(self) -> int:
        """The largest number."""
        return self.zero + self.step - 1


SCALES = {
    scale.name: scale
    for scale in (
        FullScale("uint8", 2**7, 2**7),
        FullScale("int16", 2**15),
        FullScale("int32", 2**31),
    )
}
"""The types of whole numbers that sound comes in (WAV; RIFF has 8 bits without a sign)."""


def full_scale(dtype: Any) -> FullScale | None:
    """Return how a type of NumPy or torch stands for samples; None for floating-point ones."""
    return SCALES.get(str(dtype).removeprefix("torch."))


def as_samples(name: str, given: Any) -> Samples:
    """Return samples of any shape and type as float32, full scale at 1; a tensor comes to the CPU.

    Raises:
        SettingError: They are no numbers, or whole numbers of a type that has no full scale.
    """
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        given = (given.float() if given.is_floating_point() else given).numpy()
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is refused where samples are checked
            return array.astype(np.float32, copy=False)
    scale = full_scale(array.dtype)
    if scale is None:
        kind = type(given).__name__ if array.dtype == object else str(array.dtype)
        raise SettingError(
            f"the type of {name}",
            kind,
            "floating-point samples with full scale at 1, or uint8, int16 or int32",
        )
    return ((array.astype(np.float64) - scale.zero) / scale.step).astype(np.float32)
