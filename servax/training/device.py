"""Which device computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch

from servax.errors import SettingError
from servax.kinds import Choice, Precision, Rules, check_types


@dataclass(frozen=True)
class Compute:
    """Device and precision of a training run or an evaluation."""

    device: str = "auto"
    """`auto` (CUDA when there is one), `cpu`, `cuda` or `cuda:N`."""
    precision: Precision = "float32"
    """`bfloat16` runs matrix products in bfloat16 (autocast); predictions may then differ."""

    RULES: ClassVar[Rules] = {"precision": Choice(("float32", "bfloat16"))}

    def __post_init__(self) -> None:
        check_types(self)
        self._named()

    def resolve(self) -> torch.device:
        """Return the device.

        Raises:
            SettingError: This machine has no such device.
        """
        device = self._named()
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise SettingError("device", self.device, f"a device of this machine ({count} CUDA)")
        return device

    def _named(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise SettingError("device", self.device, "auto, cpu, cuda or cuda:N")
        return device

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        return torch.autocast(
            self.resolve().type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )
