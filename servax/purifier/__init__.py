"""SSA, the losses, the training of P against D, and the trained `Purifier`."""

from servax.purifier.losses import LossWeights
from servax.purifier.pipeline import protected_pipeline
from servax.purifier.presets import PRESETS, Level, Preset, preset
from servax.purifier.purifier import Purifier
from servax.purifier.sound_purifier import SoundPurifier
from servax.purifier.ssa import SSA
from servax.purifier.surrogates import DecisionSSA, SurrogateTrainer, SurrogateTraining
from servax.purifier.training import PurifierTrainer, PurifierTraining
from servax.runtime.stream import SoundStream

__all__ = [
    "PRESETS",
    "SSA",
    "DecisionSSA",
    "Level",
    "LossWeights",
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
