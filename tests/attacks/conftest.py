from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn


class SmallConvNet(nn.Module):
    """A smooth classifier of (B, 1, 6, 8) into three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 6, 3),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(6 * 2, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Linear(nn.Module):
    """A linear classifier of (B, 1, 6, 8) into two classes: its attacks have closed forms."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


class Watched(nn.Module):
    """Counts forward and backward passes of a model and notes its mode in each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.modes |= {module.training for module in self.modules()}
        logits: Tensor = self.model(x)
        if logits.requires_grad and x.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1


BUILD = {"conv": SmallConvNet, "linear": Linear}


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """Make a model with weights from a seed: ``build("conv")``, in evaluation mode."""

    def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = BUILD[name]()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.normal_(module.running_mean, std=0.2)
                    nn.init.uniform_(module.running_var, 0.3, 1.0)
            return model.to(dtype).eval()

    return make


@pytest.fixture
def inputs() -> Callable[..., tuple[Tensor, Tensor]]:
    """Draw clean inputs that reach both bounds, and classes 0 and 1."""

    def draw(dtype: torch.dtype = torch.float64, batch: int = 8) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(2)
        x = torch.rand(batch, 1, 6, 8, generator=draws, dtype=torch.float64)
        return (1.4 * x - 0.2).clamp(0.0, 1.0).to(dtype), torch.arange(batch) % 2

    return draw


@pytest.fixture
def watch() -> type[Watched]:
    return Watched


@pytest.fixture(scope="session")
def torchattacks() -> ModuleType:
    """Return torchattacks, an oracle that always clamps to [0, 1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchattacks")


@pytest.fixture(scope="session")
def foolbox() -> ModuleType:
    """Return foolbox, an oracle with bounds of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("foolbox")
