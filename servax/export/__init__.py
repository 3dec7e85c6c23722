"""Trained networks as ONNX files, for `servax.runtime` and any other ONNX runtime."""

from servax.export.exporting import Exported, export_defended, export_purifier

__all__ = ["Exported", "export_defended", "export_purifier"]
