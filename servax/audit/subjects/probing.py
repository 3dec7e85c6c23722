"""Try a model once on zeros before anything is attacked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.audit.subjects.subject import Inputs
from servax.errors import PathError
from servax.features import FrontEndSettings

SHAPES = {"logmel": "(B, 1, M, F)", "waveform": "(B, T)"}


def settled(model: nn.Module) -> nn.Module:
    """Return the model itself: in evaluation mode, on the CPU, its weights without gradients."""
    return model.to("cpu").eval().requires_grad_(False)


def zeros(inputs: Inputs, sample_rate: int, front_end: FrontEndSettings | None) -> Tensor:
    """Return one input of zeros: a log-Mel (1, 1, M, F), or one second of sound (1, T)."""
    if inputs == "waveform" or front_end is None:
        return torch.zeros(1, sample_rate)
    return torch.zeros(1, 1, front_end.logmel.mels, front_end.frames)


def gradients_reach(model: nn.Module, x: Tensor) -> bool:
    """Return whether what `model` gives for inputs (B, ...) depends on them differentiably."""
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            logits = model(x.clone().requires_grad_(True))
    except RuntimeError:  # It turns inputs into NumPy arrays, or writes into them.
        return False
    return isinstance(logits, Tensor) and logits.requires_grad


def count_classes(model: nn.Module, x: Tensor, *, inputs: Inputs, source: str) -> int:
    """Return C, the number of logits that `model` gives for one input.

    Raises:
        PathError: It fails, or gives anything but logits (1, C) with C of at least 2.
    """
    expected = f"a model from {SHAPES[inputs]} to logits (B, C)"
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits = model(x)
    except Exception as error:  # Code of the user or of another library may raise anything.
        raise PathError(
            source,
            f"fails on one input of zeros {tuple(x.shape)}, expected {expected} "
            f"({type(error).__name__}: {error})",
        ) from error
    if not isinstance(logits, Tensor):
        raise PathError(source, f"returns a {type(logits).__name__}, expected {expected}")
    if logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        raise PathError(
            source,
            f"returns shape {tuple(logits.shape)} for one input of zeros {tuple(x.shape)}, "
            f"expected {expected}, C of at least 2",
        )
    return int(logits.shape[1])
