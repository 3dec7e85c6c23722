"""What stands in front of a classifier, or how it is trained: purifiers, controls, objectives."""

from servax.defences.adversarial import (
    SCHEDULES,
    AdversarialTraining,
    MadryPGD,
    Objective,
    Similarity,
    Trades,
    Vanilla,
)
from servax.defences.defended import Defended
from servax.defences.transforms import GaussianNoise, MeanFilter, Quantise

__all__ = [
    "SCHEDULES",
    "AdversarialTraining",
    "Defended",
    "GaussianNoise",
    "MadryPGD",
    "MeanFilter",
    "Objective",
    "Quantise",
    "Similarity",
    "Trades",
    "Vanilla",
]
