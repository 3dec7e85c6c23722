"""Try a model once on zeros before anything is attacked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.audit.subjects.subject import SECONDS, Inputs
from servax.errors import PathError
from servax.features import FrontEndSettings

LENGTHS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""In seconds: what a model of waveforms is tried with, to tell which lengths it takes."""
SHAPES = {"logmel": "(B, 1, M, F)", "waveform": "(B, T)"}


def settled(model: nn.Module) -> nn.Module:
    """Return the model itself: in evaluation mode, on the CPU, its weights without gradients."""
    model.to("cpu").eval()
    for parameter in model.parameters():  # TorchScript has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return model


def zeros(
    inputs: Inputs,
    sample_rate: int,
    front_end: FrontEndSettings | None,
    seconds: float = SECONDS,
) -> Tensor:
    """Return one input of zeros: a log-Mel (1, 1, M, F), or sound of the audit's length (1, T)."""
    if inputs == "waveform" or front_end is None:
        return torch.zeros(1, round(seconds * sample_rate))
    return torch.zeros(1, 1, front_end.logmel.mels, front_end.frames)


def gradients_reach(model: nn.Module, x: Tensor) -> bool:
    """Return whether what `model` gives for inputs (B, ...) depends on them differentiably."""
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            logits = model(x.clone().requires_grad_(True))
    except RuntimeError:  # It turns inputs into NumPy arrays, or writes into them.
        return False
    return isinstance(logits, Tensor) and logits.requires_grad


def heard(model: nn.Module, sample_rate: int, seconds: float) -> str:
    """Return what to do about a model of waveforms that fails at the length it was tried with."""
    others = [each for each in LENGTHS if each != seconds]
    taken = [each for each in others if _takes(model, torch.zeros(1, round(each * sample_rate)))]
    tried = ", ".join(f"{each:g}" for each in sorted([seconds, *others]))
    advice = f"seconds={taken[0]:g}" if taken else "its length with seconds"
    told = f"takes {' and '.join(f'{each:g}' for each in taken)} s" if taken else "takes none"
    return f"of {tried} s it {told}: say {advice}, as an attribute or an option"


def _takes(model: nn.Module, x: Tensor) -> bool:
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model(x)
    except Exception:  # The user's code may raise anything.
        return False
    return True


def count_classes(
    model: nn.Module, x: Tensor, *, inputs: Inputs, source: str, sample_rate: int = 0
) -> int:
    """Return C, the number of logits that `model` gives for one input.

    Args:
        model: From inputs to logits.
        x: One input.
        inputs: What it is.
        source: Begins refusals.
        sample_rate: Of a waveform whose length the caller may say, in Hz, so that a refusal tells
            which lengths would do.

    Raises:
        PathError: It fails, or gives anything but logits (1, C) with C of at least 2.
    """
    expected = f"a model from {SHAPES[inputs]} to logits (B, C)"
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits = model(x)
    except Exception as error:  # Code of the user or of another library may raise anything.
        advice = heard(model, sample_rate, x.shape[1] / sample_rate) if sample_rate else ""
        raise PathError(
            source,
            f"fails on one input of zeros {tuple(x.shape)}, expected {expected} "
            f"({type(error).__name__}: {error}){advice and '; '}{advice}",
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
