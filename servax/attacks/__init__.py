"""Ascent on the class loss: attacks on any classifier, bare, defended, or of waveforms."""

from servax.attacks.auto_pgd import APGD, TargetedAPGD
from servax.attacks.base import Attack, BallAttack, Problem
from servax.attacks.ensemble import AutoAttack, Ensemble, Outcome, Restarts
from servax.attacks.foolbox import Foolbox
from servax.attacks.gradient import (
    FGSM,
    PGD,
    DiversePGD,
    MomentumPGD,
    RandomNoise,
    class_loss,
)
from servax.attacks.logits import (
    Counting,
    FastGradients,
    cross_entropy,
    dlr,
    dlr_targeted,
    logits_of,
    margin,
)
from servax.attacks.score_based import NES, SPSA, Found, QueryAttack
from servax.attacks.square import Square
from servax.attacks.universal import Universal
from servax.attacks.waveform import WaveformPGD

__all__ = [
    "APGD",
    "FGSM",
    "NES",
    "PGD",
    "SPSA",
    "Attack",
    "AutoAttack",
    "BallAttack",
    "Counting",
    "DiversePGD",
    "Ensemble",
    "FastGradients",
    "Foolbox",
    "Found",
    "MomentumPGD",
    "Outcome",
    "Problem",
    "QueryAttack",
    "RandomNoise",
    "Restarts",
    "Square",
    "TargetedAPGD",
    "Universal",
    "WaveformPGD",
    "class_loss",
    "cross_entropy",
    "dlr",
    "dlr_targeted",
    "logits_of",
    "margin",
]
