"""SSA, the losses, the training of P against D, and the trained `Purifier`.

Names are loaded when they are first used: what says which file becomes which needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servax.purifier.losses import LossWeights
    from servax.purifier.presets import PRESETS, Level, Preset, preset
    from servax.purifier.purifier import Purifier, SoundPurifier
    from servax.purifier.ssa import SSA
    from servax.purifier.surrogates import DecisionSSA, SurrogateTrainer, SurrogateTraining
    from servax.purifier.training import PurifierTrainer, PurifierTraining
    from servax.purifier.transformers_pipeline import protected_pipeline
    from servax.runtime.stream import Mixture, SoundStream

__all__ = [
    "PRESETS",
    "SSA",
    "DecisionSSA",
    "Level",
    "LossWeights",
    "Mixture",
    "Preset",
    "Purifier",
    "PurifierTrainer",
    "PurifierTraining",
    "SoundPurifier",
    "SoundStream",
    "SurrogateTrainer",
    "SurrogateTraining",
    "preset",
    "protected_pipeline",
]
_HOMES = {
    "losses": ("LossWeights",),
    "transformers_pipeline": ("protected_pipeline",),
    "presets": ("PRESETS", "Level", "Preset", "preset"),
    "purifier": ("Mixture", "Purifier", "SoundPurifier", "SoundStream"),
    "ssa": ("SSA",),
    "surrogates": ("DecisionSSA", "SurrogateTrainer", "SurrogateTraining"),
    "training": ("PurifierTrainer", "PurifierTraining"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"servax.purifier.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
