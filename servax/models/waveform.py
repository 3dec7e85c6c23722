"""A classifier of waveforms: the front-end in front of a classifier of spectrograms."""

from __future__ import annotations

from torch import Tensor, nn

from servax.errors import check_kind
from servax.features import check_waveforms


class WaveformClassifier(nn.Module):
    """Maps waveforms (B, T) to logits (B, C), differentiably.

    Args:
        logmel: From (B, T) to what `classifier` takes, e.g. ``nn.Sequential(front_end, scale)``.
        classifier: From (B, 1, M, F) to logits (B, C).
    """

    def __init__(self, logmel: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        check_kind("logmel", logmel, nn.Module)
        check_kind("classifier", classifier, nn.Module)
        self.logmel = logmel
        self.classifier = classifier

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        check_waveforms(waveform)
        logits: Tensor = self.classifier(self.logmel(waveform))
        return logits
