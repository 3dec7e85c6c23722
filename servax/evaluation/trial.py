"""Try a model before it is attacked: what does it give, do gradients pass, is it random?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.errors import PathError
from servax.features import FrontEndSettings
from servax.models import evaluating
from servax.training import global_seed

Inputs = Literal["logmel", "waveform"]
SHAPES: Mapping[Inputs, str] = {"logmel": "(B, 1, M, F)", "waveform": "(B, T)"}
"""What a model takes: log-Mels on [0, 1], or waveforms on [-1, 1]."""
SECONDS = 3.0
"""Length of a waveform, where neither the model nor the caller says another."""
AGREEMENT = 1e-3
"""Largest difference between logits that counts as rounding, as a share of their spread."""
LENGTHS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""In seconds: what a model of waveforms is tried with, to tell which lengths it takes."""


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


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short; torch has no class for that on a CPU."""
    wanted = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return wanted or "can't allocate memory" in str(error)


def shut(model: nn.Module, x: Tensor) -> str:
    """Return why no gradient of the logits reaches inputs (B, ...); empty where one does.

    Tried at `x`, then at noise added to it: where nothing sounds a model may be flat that is not
    flat elsewhere. That a gradient is true is another question (`checks.gradient_is_true`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reason = _cut(model, x)
        return reason and (_cut(model, x + 0.2 * torch.rand_like(x)) and reason)


def _cut(model: nn.Module, x: Tensor) -> str:
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = x.clone().requires_grad_(True)
        try:
            logits = logits_of(model, leaf)
            if not logits.requires_grad:
                return (
                    "its output does not depend differentiably on its input: detach(), .data, "
                    "torch.no_grad(), NumPy or whole numbers stand on the way"
                )
            # Of a random mixture, since what sums to one has no gradient in the sum.
            mixed = (logits * torch.rand_like(logits)).sum()
            found: list[Tensor | None] = list(torch.autograd.grad(mixed, leaf, allow_unused=True))
        except Exception as error:  # The user's code may raise anything.
            if out_of_memory(error):
                raise
            cause = error.__cause__ or error
            told = " ".join(f"{type(cause).__name__}: {cause}".split())
            why = "most often since NumPy stands on the way"
            if "inplace operation" in told:
                why = "since it writes over what its own gradient needs"
            return f"it fails as soon as its input wants a gradient ({told}), {why}"
    gradient = found[0]
    if gradient is None:
        return (
            "its output has a gradient of other things, none of its input: a part without any, as "
            "a quantised one, stands on the way"
        )
    if not bool(gradient.isfinite().all()):
        return "its gradient is NaN or infinite: most often the root or logarithm of silence"
    if not bool((gradient != 0).any()):
        return "its gradient is zero everywhere: it rounds, compares or casts to whole numbers"
    return ""


def problems(model: nn.Module) -> set[str | None]:
    """Return what a model says that it was trained for.

    Models of Hugging Face transformers say it in ``config.problem_type``, also as parts of others:
    ``regression`` where it gives numbers, ``multi_label_classification`` where several of its
    classes may be right.
    """
    configs = [getattr(module, "config", None) for module in model.modules()]
    return {
        each.get("problem_type")
        if isinstance(each, Mapping)
        else getattr(each, "problem_type", None)
        for each in configs
    }


def tried(
    model: nn.Module, x: Tensor, *, source: str, expected: str, advice: Callable[[], str] = str
) -> Any:
    """Return what a model gives for inputs of zeros (B, ...).

    Raises:
        PathError: It fails: what was expected, and some advice.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return model(x.clone())
    except Exception as error:  # Code of the user or of another library may raise anything.
        count = "one input" if len(x) == 1 else "two inputs"
        told = advice()
        raise PathError(
            source,
            f"fails on {count} of zeros {tuple(x.shape)}, expected {expected} "
            f"({type(error).__name__}: {error}){told and '; '}{told}",
        ) from error


def count_classes(
    model: nn.Module,
    x: Tensor,
    *,
    inputs: Inputs,
    source: str,
    sample_rate: int = 0,
    fewest: int = 2,
) -> int:
    """Return C, the number of logits that `model` gives for one input.

    Args:
        model: From inputs to logits.
        x: One input.
        inputs: What it is.
        source: Begins refusals.
        sample_rate: Of a waveform whose length the caller may say, in Hz, so that a refusal tells
            which lengths would do.
        fewest: Least C.

    Raises:
        PathError: It fails, or gives anything but logits (1, C) with C of at least `fewest`.
    """
    expected = f"a model from {SHAPES[inputs]} to logits (B, C)"
    advice = (lambda: _heard(model, sample_rate, x.shape[1] / sample_rate)) if sample_rate else str
    logits = tried(model, x, source=source, expected=expected, advice=advice)
    if not isinstance(logits, Tensor):
        raise PathError(source, f"returns a {type(logits).__name__}, expected {expected}")
    if logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < fewest:
        raise PathError(
            source,
            f"returns shape {tuple(logits.shape)} for one input of zeros {tuple(x.shape)}, "
            f"expected {expected}, C of at least {fewest}",
        )
    return int(logits.shape[1])


def _heard(model: nn.Module, sample_rate: int, seconds: float) -> str:
    """Return what to do about a model of waveforms that fails at the length it was tried with."""
    others, taken = [each for each in LENGTHS if each != seconds], []
    for each in others:
        with suppress(PathError):
            tried(model, torch.zeros(1, round(each * sample_rate)), source="", expected="")
            taken.append(each)
    asked = ", ".join(f"{each:g}" for each in sorted([seconds, *others]))
    advice = f"seconds={taken[0]:g}" if taken else "its length with seconds"
    told = f"takes {' and '.join(f'{each:g}' for each in taken)} s" if taken else "takes none"
    return f"of {asked} s it {told}: say {advice}, as an attribute or an option"


@dataclass(frozen=True)
class Repeats:
    """How far the answers to the same inputs differ from one pass to the next."""

    difference: float
    """Largest difference between logits, as a share of their spread."""
    flipped: float
    """Share of the predictions that differ."""
    passes: int
    """Of the whole batch; as many again of each utterance alone."""

    @property
    def random(self) -> bool:
        """Whether they differ by more than rounding."""
        return not self.difference <= AGREEMENT


def repeats(model: nn.Module, x: Tensor, passes: int = 2) -> Repeats:
    """Return how far passes of inputs (B, ...) differ, in one batch and each alone."""
    # Whatever draws from the global generator goes on drawing; its state is put back afterwards.
    with evaluating(model), torch.no_grad(), global_seed(0, "determinism"):
        together = torch.stack([logits_of(model, x) for _ in range(passes)])  # (passes, B, K)
        single = torch.stack([alone(model, x) for _ in range(passes)])
    both = (together, single)
    furthest = max(float((each - each[0]).abs().max()) for each in both)
    flips = torch.stack([(each.argmax(2) != each[0].argmax(1)).any(dim=0) for each in both])
    flipped = float(flips.any(dim=0).double().mean())
    return Repeats(furthest / spread(together), flipped, passes)


def alone(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (B, K) of inputs (B, ...), each asked about alone."""
    return torch.cat([logits_of(model, one) for one in torch.split(x, 1)])


def spread(logits: Tensor) -> float:
    """Return how far the highest logit of any input lies above the lowest, at least a little."""
    return max(float(logits.max() - logits.min()), torch.finfo(logits.dtype).tiny)
