"""A classifier of waveforms: the front-end in front of a classifier of spectrograms."""

from __future__ import annotations

from torch import Tensor, nn

from servax.features import check_waveforms
from servax.kinds import typed


class WaveformClassifier(nn.Module):
    """Maps waveforms (B, T) to logits (B, C), differentiably.

    Args:
        logmel: From (B, T) to what `classifier` takes, e.g. ``nn.Sequential(front_end, scale)``.
        classifier: From (B, 1, M, F) to logits (B, C).
    """

    @typed
    def __init__(self, logmel: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.logmel = logmel
        self.classifier = classifier

    def forward(self, waveform: Tensor) -> Tensor:
        """Return logits (B, C) of waveforms (B, T)."""
        check_waveforms(waveform)
        # A copy, since the classifier may write into what it is given.
        logits: Tensor = self.classifier(self.logmel(waveform).clone())
        return logits
