"""Purifies without torch: NumPy, and onnxruntime for an exported network."""

from servax.runtime.noise_wiener import NoiseWiener
from servax.runtime.purifier import Purifier
from servax.runtime.stream import Mixture

__all__ = ["Mixture", "NoiseWiener", "Purifier"]
