"""What is attacked: one noun for a model, alone or behind a defence, wherever it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from servax.defences import (
    Codec,
    GaussianNoise,
    LowPass,
    MeanFilter,
    MedianFilter,
    Quantise,
    Resample,
)
from servax.errors import SettingError
from servax.features import FrontEndSettings, Scaling

Inputs = Literal["logmel", "waveform"]
INPUTS: tuple[Inputs, ...] = ("logmel", "waveform")
"""What a model takes: log-Mels (B, 1, M, F) on [0, 1], or waveforms (B, T) on [-1, 1]."""
BOUNDS: Mapping[Inputs, tuple[float, float]] = {"logmel": (0.0, 1.0), "waveform": (-1.0, 1.0)}
"""Lowest and highest value of an input."""
SECONDS = 3.0
"""Length of a waveform, where neither the model nor the caller says another."""


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """A classifier under attack: a bare model, or a defence with the model behind it."""

    name: str
    """How records and reports call it."""
    model: nn.Module
    """The whole classifier, from inputs to logits (B, C); in evaluation mode, weights frozen."""
    front: nn.Module | None = None
    """What stands before the bare model; none for a classifier in its place."""
    inputs: Inputs = "logmel"
    """What it takes: log-Mels (B, 1, M, F) on [0, 1] or waveforms (B, T) on [-1, 1]."""
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of the logits."""
    sample_rate: int = 16_000
    """Of the sound that its inputs are made from, in Hz."""
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
    source: str = ""
    """Kind and place, for the evaluation card."""
    fingerprint: str = ""
    """SHA-256 of what decides its answers: weights, settings, code."""

    @property
    def gradients(self) -> bool:
        """Whether gradients reach the inputs."""
        return not self.shut

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of an input."""
        return BOUNDS[self.inputs]

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


@dataclass(frozen=True)
class _Transform:
    build: Callable[[float, torch.Generator, int], nn.Module]
    inputs: str
    example: str
    expected: str
    whole: bool = False


_QUALITY = ("waveform", "0.5", "a quality in [0, 1]")
TRANSFORMS: Mapping[str, _Transform] = {
    "gaussian-noise": _Transform(
        lambda v, g, r: GaussianNoise(v, g), "logmel", "0.02", "sd in (0, 1]"
    ),
    "mean-filter": _Transform(
        lambda v, g, r: MeanFilter(int(v)), "logmel", "3", "an odd size", True
    ),
    "median-filter": _Transform(
        lambda v, g, r: MedianFilter(int(v)), "logmel", "3", "an odd size", True
    ),
    "quantise": _Transform(lambda v, g, r: Quantise(int(v)), "logmel", "4", "whole bits", True),
    "low-pass": _Transform(lambda v, g, r: LowPass(r, v), "waveform", "4000", "a cut-off in Hz"),
    "resample": _Transform(
        lambda v, g, r: Resample(r, int(v)), "waveform", "8000", "a rate in Hz", True
    ),
    "mp3": _Transform(lambda v, g, r: Codec(r, "mp3", v), *_QUALITY),
    "ogg": _Transform(lambda v, g, r: Codec(r, "ogg-vorbis", v), *_QUALITY),
    "opus": _Transform(lambda v, g, r: Codec(r, "ogg-opus", v), *_QUALITY),
}
"""Input transforms by name; an option gives one number: ``gaussian-noise:0.02``."""


def make_transform(
    kind: str, value: str, sample_rate: int, draws: torch.Generator
) -> tuple[nn.Module, float]:
    """Return a transform and the number that an option gave it.

    Args:
        kind: One of `TRANSFORMS`.
        value: Its number, as text.
        sample_rate: Of the sound it hears, in Hz.
        draws: What a random one draws from.

    Raises:
        SettingError: The number is none, or not one that this transform takes.
    """
    transform = TRANSFORMS[kind]
    if not value.strip():
        raise SettingError(
            "defence", kind, f"a number too: {kind}:{transform.example}, {transform.expected}"
        )
    number = _number(value)
    if not math.isfinite(number) or (transform.whole and number != int(number)):
        raise SettingError("defence", f"{kind}:{value}", f"{kind}:VALUE, {transform.expected}")
    return transform.build(number, draws, sample_rate), number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
