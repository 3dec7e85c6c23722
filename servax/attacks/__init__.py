"""Ascent on the class loss: attacks on any classifier, bare, defended, or of waveforms."""

from servax.attacks.base import Attack
from servax.attacks.gradient import FGSM, PGD, class_loss
from servax.attacks.problem import Problem

__all__ = ["FGSM", "PGD", "Attack", "Problem", "class_loss"]
