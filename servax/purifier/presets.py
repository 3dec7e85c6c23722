"""Published and tried configurations of the purifier, by name.

``ssad`` is the paper's, as docs/method.md settles it. ``ssad-residual`` differs in one point: the
network predicts a change that is added to its input. ``ssad-plus`` is what docs/research.md came
to: texture shuffled, then a U-Net trained through surrogates.

Each states what its training has never been shown: P0 the target's weights, P1 its architecture,
P2 labels, P3 an attack on logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from servax.kinds import Choice, typed
from servax.models import FrameTransformerSettings, RestorerSettings, UNetSettings
from servax.purifier.surrogates import SurrogateTraining
from servax.purifier.training import PurifierTraining

Level = Literal["P0", "P1", "P2", "P3"]


@dataclass(frozen=True)
class Preset:
    """A purifier network and how it is trained."""

    network: RestorerSettings = field(default_factory=FrameTransformerSettings)
    """P."""
    training: PurifierTraining | SurrogateTraining = field(default_factory=PurifierTraining)
    """Its training, against a discriminator or through surrogates."""
    unseen: tuple[Level, ...] = ("P0", "P2", "P3")
    """What the training has never been shown: knowledge levels."""


PRESETS: dict[str, Preset] = {
    "ssad": Preset(),
    "ssad-residual": Preset(network=FrameTransformerSettings(residual=True)),
    "ssad-plus": Preset(
        network=UNetSettings(width=16, texture=4, passes=2),
        training=SurrogateTraining(),
        unseen=("P0", "P2"),
    ),
}


@typed
def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        SettingError: There is none of that name.
    """
    Choice(PRESETS).check("purifier preset", name)
    return PRESETS[name]
