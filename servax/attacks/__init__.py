"""Ascent on the class loss: attacks on any classifier, bare, defended, or of waveforms."""

from servax.attacks.auto_attack import AutoAttack
from servax.attacks.auto_pgd import APGD, TargetedAPGD
from servax.attacks.base import Attack
from servax.attacks.counting import Counting
from servax.attacks.estimated import NES, SPSA
from servax.attacks.fast import FastGradients
from servax.attacks.gradient import FGSM, PGD, class_loss
from servax.attacks.noise import RandomNoise
from servax.attacks.outside import Outside, presets
from servax.attacks.problem import Problem
from servax.attacks.queries import Found, QueryAttack
from servax.attacks.schedule import Cascade, Outcome, Restarts
from servax.attacks.square import Square
from servax.attacks.transferable import DiversePGD, MomentumPGD
from servax.attacks.universal import UniversalPerturbation
from servax.attacks.waveform import WaveformPGD

__all__ = [
    "APGD",
    "FGSM",
    "NES",
    "PGD",
    "SPSA",
    "Attack",
    "AutoAttack",
    "Cascade",
    "Counting",
    "DiversePGD",
    "FastGradients",
    "Found",
    "MomentumPGD",
    "Outcome",
    "Outside",
    "Problem",
    "QueryAttack",
    "RandomNoise",
    "Restarts",
    "Square",
    "TargetedAPGD",
    "UniversalPerturbation",
    "WaveformPGD",
    "class_loss",
    "presets",
]
