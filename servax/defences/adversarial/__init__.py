"""Adversarial training: the baseline of the paper ([18], Ren et al. 2020), PGD-AT and TRADES.

One trainer; what it minimises is an objective that is passed in.
"""

from servax.defences.adversarial.objectives import (
    MadryPGD,
    Objective,
    Similarity,
    Trades,
    Vanilla,
)
from servax.defences.adversarial.settings import SCHEDULES, AdversarialTraining
from servax.defences.adversarial.trainer import AdversarialTrainer

__all__ = [
    "SCHEDULES",
    "AdversarialTrainer",
    "AdversarialTraining",
    "MadryPGD",
    "Objective",
    "Similarity",
    "Trades",
    "Vanilla",
]
