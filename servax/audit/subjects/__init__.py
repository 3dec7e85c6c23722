"""What an audit attacks, wherever it comes from: a checkpoint, a class, Hugging Face, ONNX."""

from servax.audit.subjects.labels import align_labels
from servax.audit.subjects.loading import load_system

__all__ = ["align_labels", "load_system"]
