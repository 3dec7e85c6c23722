"""Purifies without torch: NumPy and onnxruntime alone."""

from servax.runtime.purifier import Purifier

__all__ = ["Purifier"]
