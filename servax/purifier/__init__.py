"""SSA, the losses, the training of P against D, and the trained `Purifier`."""

from servax.purifier.losses import LossWeights
from servax.purifier.presets import PRESETS, Preset, preset
from servax.purifier.purifier import Purifier
from servax.purifier.ssa import SSA
from servax.purifier.training import PurifierTrainer, PurifierTraining

__all__ = [
    "PRESETS",
    "SSA",
    "LossWeights",
    "Preset",
    "Purifier",
    "PurifierTrainer",
    "PurifierTraining",
    "preset",
]
