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
    # NumPy's name, unlike its text, leaves out the order of bytes.
    return SCALES.get(str(getattr(dtype, "name", dtype)).removeprefix("torch."))


def as_samples(name: str, given: Any) -> Samples:
    """Return samples of any shape and type as float32, full scale at 1; a tensor comes to the CPU.

    Raises:
        SettingError: They are no numbers, or whole numbers of a type that has no full scale.
    """
    array = _as_array(name, given)
    scale = full_scale(array.dtype)
    if scale is None:
        whole = ", ".join(list(SCALES)[:-1]) + f" or {list(SCALES)[-1]}"
        expected = f"floating-point samples with full scale at 1, or {whole}"
        return _as_floats(name, given, array, expected)
    return ((array.astype(np.float64) - scale.zero) / scale.step).astype(np.float32)


def as_floats(name: str, given: Any) -> Samples:
    """Return floating-point numbers of any shape and type as float32, without a scale.

    Raises:
        SettingError: They are no numbers, or whole ones.
    """
    return _as_floats(name, given, _as_array(name, given), "a floating-point type")


def _as_floats(name: str, given: Any, array: NDArray[Any], expected: str) -> Samples:
    if array.dtype.kind != "f":
        kind = type(given).__name__ if array.dtype == object else str(array.dtype)
        raise SettingError(f"the type of {name}", kind, expected)
    with np.errstate(over="ignore"):  # infinity is refused where samples are checked
        return array.astype(np.float32, copy=False)


def _as_array(name: str, given: Any) -> NDArray[Any]:
    """Return what is given as an array, which is one of objects where it cannot be one."""
    if isinstance(given, list | tuple):
        given = [_fetched(name, each) for each in given]
    else:
        given = _fetched(name, given)
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        return np.asarray(None)


def _fetched(name: str, given: Any) -> Any:
    """Return the array of a tensor, wherever it is; what is no tensor stays as it is."""
    if not hasattr(given, "detach"):
        return given
    try:
        tensor = given.detach().cpu().resolve_conj().resolve_neg()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise SettingError(
            f"the type of {name}",
            f"{getattr(given, 'layout', type(given).__name__)} on {getattr(given, 'device', '?')}",
            "a dense tensor that holds its values, as .to_dense() gives of a sparse one",
        ) from error
