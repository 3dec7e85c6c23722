"""What the functions of this library take for a tensor, refused in a sentence where it is none."""

from __future__ import annotations

from torch import Tensor

from servax.errors import SettingError, ShapeError
from servax.kinds import check


def check_tensor(name: str, value: Tensor) -> None:
    """Refuse what is no floating-point tensor.

    Raises:
        SettingError: It is no tensor, or one of whole numbers.
    """
    check(name, value, "Tensor")
    if not value.is_floating_point():
        raise SettingError(f"the type of {name}", value.dtype, "a floating-point type")


def check_waveforms(waveform: Tensor) -> None:
    """Refuse what is no waveforms (B, T).

    Raises:
        SettingError: It is no floating-point tensor.
        ShapeError: It is not (B, T).
    """
    check_tensor("waveform", waveform)
    if waveform.ndim != 2:
        raise ShapeError("waveform", waveform.shape, "(B, T) samples; one sound is waveform[None]")


def check_log_mels(x: Tensor, mels: int) -> None:
    """Refuse what is no log-Mels (B, 1, `mels`, F); their values are not looked at.

    Raises:
        SettingError: It is no floating-point tensor.
        ShapeError: It is of another shape, such as one of another front-end.
    """
    check_tensor("x", x)
    if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] != mels:
        raise ShapeError("x", x.shape, f"(B, 1, {mels}, F)")
