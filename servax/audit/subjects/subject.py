"""One model under audit, with all that attacks and reports must know about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from servax.features import FrontEndSettings, Scaling

Inputs = Literal["logmel", "waveform"]
INPUTS: tuple[Inputs, ...] = ("logmel", "waveform")
"""What a model takes: log-Mels (B, 1, M, F) on [0, 1], or waveforms (B, T) on [-1, 1]."""
BOUNDS: Mapping[Inputs, tuple[float, float]] = {"logmel": (0.0, 1.0), "waveform": (-1.0, 1.0)}
"""Lowest and highest value of an input."""
SECONDS = 3.0
"""Length of a waveform, where neither the model nor the caller says another."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under audit."""

    name: str
    """How reports call it."""
    model: nn.Module
    """From inputs to logits (B, C); in evaluation mode, on the CPU, its weights frozen."""
    inputs: Inputs
    """What it takes: log-Mels (B, 1, M, F) on [0, 1] or waveforms (B, T) on [-1, 1]."""
    labels: tuple[str, ...]
    """Names of the classes in the order of the logits."""
    sample_rate: int
    """Of the sound that its inputs are made from, in Hz."""
    bounds: tuple[float, float]
    """Lowest and highest value of an input."""
    front_end: FrontEndSettings | None = None
    """From sound to log-Mel; none for a model of waveforms."""
    seconds: float = SECONDS
    """Length of the waveforms that a model of waveforms hears."""
    scale: Scaling | None = None
    """From dB to [0, 1]; none for a model of waveforms, or still to be fitted on the training part
    of a corpus."""
    shut: str = ""
    """Why no gradients reach the inputs, so that only black-box attacks are possible."""
    exact: bool = True
    """Whether its gradients are its own; else the identity stands for a step without any (BPDA)."""
    multi_label: bool = False
    """Whether it says itself that its classes do not exclude each other."""
    source: str
    """Kind and place, for the evaluation card."""
    fingerprint: str
    """SHA-256 of the weights, and of the file with the code where there is one."""

    @property
    def gradients(self) -> bool:
        """Whether gradients reach the inputs."""
        return not self.shut

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides its predictions, fit for JSON and for the key of a stage."""
        return {
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "bounds": list(self.bounds),
            "labels": list(self.labels),
            "sample_rate": self.sample_rate,
            "front_end": None if self.front_end is None else asdict(self.front_end),
            "scale": None if self.scale is None else asdict(self.scale.settings),
        }
