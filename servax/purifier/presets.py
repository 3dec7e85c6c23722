"""Published and tried configurations of the purifier, by name.

``ssad`` is the paper's, as docs/method.md settles it. ``ssad-residual`` differs in one point: the
network predicts a change that is added to its input. Both hold knowledge levels P0 (no weights of
the target), P2 (no labels of the purifier's training) and P3 (no attack on logits).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from servax.errors import SettingError
from servax.models import FrameTransformerSettings
from servax.purifier.training import PurifierTraining


@dataclass(frozen=True)
class Preset:
    """A purifier network and how it is trained."""

    network: FrameTransformerSettings = field(default_factory=FrameTransformerSettings)
    """P."""
    training: PurifierTraining = field(default_factory=PurifierTraining)
    """Its training."""


PRESETS: dict[str, Preset] = {
    "ssad": Preset(),
    "ssad-residual": Preset(network=FrameTransformerSettings(residual=True)),
}


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        SettingError: There is none of that name.
    """
    if name not in PRESETS:
        raise SettingError.choice("purifier preset", name, PRESETS)
    return PRESETS[name]
