"""Purifies without torch: NumPy, and onnxruntime for an exported network."""

from servax.runtime.noise_wiener import NoiseWiener
from servax.runtime.purifier import Purifier

__all__ = ["NoiseWiener", "Purifier"]
