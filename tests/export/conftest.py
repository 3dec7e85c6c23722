"""Small networks that change what they hear, and files of them, made once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from servax.features import FrontEndSettings, Scale, ScaleSettings
from servax.models import CRNN, RecogniserNetwork, UNet
from servax.purifier import Purifier
from servax.purifier.export import Exported, export_purifier
from servax.recognition import Recogniser

LABELS = ("angry", "happy", "sad")
SCALE = Scale(ScaleSettings(top_db=40.0))
FRONT_END = FrontEndSettings(frames=120)


def woken(network: nn.Module) -> nn.Module:
    """Return a network whose last layer is no longer zero and whose batch norms do something."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        last = network.out if hasattr(network, "out") else None
        if last is not None:
            last.weight.copy_(0.02 * torch.randn(last.weight.shape, generator=draws))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draws))
                module.running_var.copy_(1 + torch.rand(module.running_var.shape, generator=draws))
    return network.eval()


@pytest.fixture(scope="session")
def make_purifier() -> Callable[[nn.Module], Purifier]:
    return lambda network: Purifier(woken(network), SCALE, FRONT_END).eval()


@pytest.fixture(scope="session")
def make_recogniser() -> Callable[[RecogniserNetwork], Recogniser]:
    return lambda network: Recogniser(woken(network), LABELS, SCALE, FRONT_END)


@pytest.fixture(scope="session")
def defended(
    tmp_path_factory: pytest.TempPathFactory,
    make_purifier: Callable[[nn.Module], Purifier],
    make_recogniser: Callable[[RecogniserNetwork], Recogniser],
) -> tuple[Purifier, Recogniser, Exported]:
    """Return a purifier, a recogniser and the file of both."""
    torch.manual_seed(0)
    purifier = make_purifier(UNet(width=8, levels=2, texture=4, passes=2))
    recogniser = make_recogniser(CRNN(3, 4))
    path = tmp_path_factory.mktemp("defended") / "defended.onnx"
    return purifier, recogniser, export_purifier(purifier, path, recogniser=recogniser)


@pytest.fixture(scope="session")
def noisy() -> Callable[..., np.ndarray]:
    """Return a function from a shape to waveforms of noise."""
    return lambda *shape: (0.1 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)
