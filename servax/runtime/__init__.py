"""Purifies without torch: NumPy and onnxruntime alone."""
