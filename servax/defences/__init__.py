"""What stands in front of a classifier: `Defended`, and input transforms as controls."""

from servax.defences.defended import Defended
from servax.defences.transforms import GaussianNoise, MeanFilter, Quantise

__all__ = ["Defended", "GaussianNoise", "MeanFilter", "Quantise"]
