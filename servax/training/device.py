"""Which device computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

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

    def placed(self, model: nn.Module) -> nn.Module:
        """Return a model that computes there and is asked from anywhere; itself on the CPU.

        Raises:
            SettingError: This machine has no such device, or the model has no weights to put there.
        """
        device = self.resolve()
        if device.type == "cpu":
            return model
        if next(model.parameters(), None) is None:
            if self.device == "auto":
                return model
            expected = "cpu or auto: the model has no weights of torch"
            raise SettingError("device", self.device, expected)
        return OnDevice(model, device)

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


class OnDevice(nn.Module):
    """The same model on a device of its own: inputs go there, and what it answers comes back.

    So whoever attacks it draws on the CPU, as without it. It stays where it is when what it is a
    part of moves.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model = model.to(device)
        self.device = device

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model makes of inputs (B, ...), on their device."""
        # A pass in bfloat16 is one there too.
        fast = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(self.device.type, torch.bfloat16) if fast else nullcontext():
            made: Tensor = self.model(x.to(self.device)).to(x.device)
        return made

    def beside(self, model: nn.Module) -> OnDevice:
        """Return another model on the same device."""
        return OnDevice(model, self.device)

    def _apply(self, *_: object, **__: object) -> OnDevice:
        return self
