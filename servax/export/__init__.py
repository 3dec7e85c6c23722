"""Trained networks as ONNX files, for `servax.runtime` and any other ONNX runtime."""
