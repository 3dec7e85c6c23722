"""Networks from spectrogram to spectrogram by their settings: purifiers, denoisers."""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from servax.models.transformer import FrameTransformer, FrameTransformerSettings
from servax.models.unet import UNet, UNetSettings

RestorerSettings = FrameTransformerSettings | UNetSettings


def new_restorer(settings: RestorerSettings) -> nn.Module:
    """Return the untrained network that the settings describe."""
    kind = UNet if isinstance(settings, UNetSettings) else FrameTransformer
    return kind(**asdict(settings))
