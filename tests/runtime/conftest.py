"""A purifier that changes what it hears, as torch and as an exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from servax.features import FrontEndSettings, Scale, ScaleSettings
from servax.models import UNet
from servax.purifier import Purifier
from servax.purifier.export import export_purifier


def drawn_unet(**settings: int) -> UNet:
    """Return a small network whose last convolution is no longer zero: it changes its input."""
    torch.manual_seed(0)
    network = UNet(width=8, levels=2, **settings)
    with torch.no_grad():
        network.out.weight.normal_(0, 0.02)
    return network


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Purifier, Path]:
    """Return a purifier and its file."""
    purifier = Purifier(drawn_unet(), Scale(ScaleSettings(top_db=40.0)), FrontEndSettings()).eval()
    path = tmp_path_factory.mktemp("exported") / "purifier.onnx"
    export_purifier(purifier, path)
    return purifier, path


@pytest.fixture(scope="session")
def noisy_voice() -> np.ndarray:
    """Return 9 s of a tone with overtones in noise, (T,) at 16 kHz: two windows."""
    return voice(9.0)


def voice(seconds: float, rate: int = 16_000) -> np.ndarray:
    """Return a tone with overtones in noise, (T,)."""
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).normal(0, 0.2, len(time))
    return (0.05 * (tone + noise) * (1.2 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)
