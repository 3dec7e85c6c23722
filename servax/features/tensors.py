"""What the functions of this library take for a tensor, refused in a sentence where it is none."""

from __future__ import annotations

import torch
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
        ShapeError: It is not (B, T), or without sounds.
    """
    check_tensor("waveform", waveform)
    if waveform.ndim != 2 or waveform.shape[0] < 1:
        expected = "(B, T) samples of at least one sound, which is waveform[None]"
        raise ShapeError("waveform", waveform.shape, expected)


def check_type(name: str, dtype: torch.dtype, weights: Tensor) -> None:
    """Refuse a type that weights cannot be used with; autocast brings both to its own.

    Raises:
        SettingError: It is another one than that of the weights.
    """
    if dtype != weights.dtype and not torch.is_autocast_enabled(weights.device.type):
        raise SettingError(f"the type of {name}", dtype, f"{weights.dtype}, that of the weights")


def check_log_mels(x: Tensor, mels: int | str = "M") -> None:
    """Refuse what is no log-Mels (B, 1, `mels`, F); their values are not looked at.

    Args:
        x: What was given.
        mels: How many Mel bins; M stands for any number.

    Raises:
        SettingError: It is no floating-point tensor.
        ShapeError: It has no frames or is of another shape, such as one of another front-end.
    """
    check_tensor("x", x)
    if x.ndim != 4 or x.shape[1] != 1 or mels not in ("M", x.shape[2]) or 0 in x.shape[2:]:
        sizes = " with M and F of at least 1" if 0 in x.shape[2:] else ""
        raise ShapeError("x", x.shape, f"(B, 1, {mels}, F){sizes}")
