"""Checks of what a model returns: is it fit to be attacked and scored at all?

Each takes a classifier, from inputs (B, ...) to logits (B, K), and clean inputs; a few forward
passes. Except for `evaluation_mode` the model is in evaluation mode while it is looked at, and is
left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.attacks.base import evaluating
from servax.attacks.problem import logits_of
from servax.evaluation.checks.finding import Finding, Severity, percent
from servax.training.seeding import drawn, generator, global_seed

AGREEMENT = 1e-3
"""Largest difference between logits that counts as rounding, as a share of their spread."""
MOVES = re.compile(
    "(Unsafe)?(View|Reshape|Squeeze|Unsqueeze|Clone|Slice|Select|Cat|Stack|Unbind|Split|Expand|"
    "Permute|Transpose|T|To?Copy)(Alias)?Backward.*"
)
"""How steps of a graph are called that move values and change none."""


def evaluation_mode(model: nn.Module, *, subject: str) -> Finding:
    """Say whether every part of the model is in evaluation mode.

    `error`: some part is in training mode, as given or still after ``model.eval()``: dropout draws
    and batch norm mixes utterances.
    """
    given = _training(model)
    with evaluating(model):
        stuck = _training(model)
    if not given and not stuck:
        return Finding(
            "evaluation-mode", subject, "passed", "All parts are in evaluation mode.", {}
        )
    first = (stuck or given)[0]
    told = (
        f"{len(stuck or given)} parts of the model (first: {first}) are in training mode"
        f"{', even after eval()' if stuck else ''}."
    )
    evidence = {"training": given, "training_after_eval": stuck}
    return Finding("evaluation-mode", subject, "error", told, evidence)


def _training(model: nn.Module) -> list[str]:
    return [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if module.training
    ]


def outputs_are_logits(
    model: nn.Module, x: Tensor, *, subject: str, multi_label: bool = False
) -> Finding:
    """Say whether the outputs are logits.

    `error`: probabilities, so that the loss flattens the gradients once more: all at least 0 with
    rows that sum to 1 (softmax); or all in [0, 1], also for silence and noise, where a sigmoid is
    seen to come last or both ends of that range are reached (sigmoids). `warning`: logits of
    questions of their own, of which several may be answered yes (a multi-label head). `note`:
    log-probabilities, which are logits too.

    Args:
        model: The classifier.
        x: Clean inputs (B, ...).
        subject: Name of the system.
        multi_label: Whether the model says itself that its classes do not exclude each other.
    """
    low, high = x.amin(), x.amax()
    noise = low + (high - low) * drawn(torch.rand, x.shape, generator(0, "outputs"), x.dtype).to(x)
    with looking(model):
        logits = logits_of(model, x)
        wide = torch.cat([logits, logits_of(model, noise), logits_of(model, torch.zeros_like(x))])
    sums = float((logits.sum(dim=1) - 1).abs().max())
    log_sums = float(logits.logsumexp(dim=1).abs().max())
    evidence = {
        "lowest": float(logits.min()),
        "highest": float(logits.max()),
        "largest_distance_of_sum_from_one": sums,
        "largest_logsumexp": log_sums,
    }
    severity: Severity = "passed"
    told = f"The outputs lie in [{evidence['lowest']:.3g}, {evidence['highest']:.3g}]: logits."
    if bool((logits >= 0).all()) and sums < 1e-3:
        severity = "error"
        told = (
            f"The outputs are probabilities: none is below 0 and each row sums to 1 within "
            f"{sums:.1e}; attack the model without its softmax."
        )
    elif bool(((wide >= 0) & (wide <= 1)).all()) and (_spanned(wide) or _squashed(model, x)):
        severity = "error"
        told = (
            "The outputs are probabilities of one class each: all lie in [0, 1], also for silence "
            "and noise, and rows do not sum to 1; attack the model without its sigmoid."
        )
    elif multi_label:
        severity = "warning"
        told = (
            "The head is a multi-label one: its outputs answer one question each, and the highest "
            "was taken for the only answer."
        )
    elif log_sums < 1e-3:
        severity = "note"
        told = f"The outputs are log-probabilities: their logsumexp is 0 within {log_sums:.1e}."
    return Finding("outputs-are-logits", subject, severity, told, evidence)


def _spanned(outputs: Tensor) -> bool:
    """Return whether values in [0, 1] come close to both ends, as logits hardly would by chance."""
    return float(outputs.min()) < 0.05 and float(outputs.max()) > 0.95


def _squashed(model: nn.Module, x: Tensor) -> bool:
    """Return whether a sigmoid is the last thing that changes the values of the outputs."""
    try:
        with evaluating(model), torch.inference_mode(mode=False), torch.enable_grad():
            node = logits_of(model, x[:1].clone().requires_grad_(True)).grad_fn
    except RuntimeError:  # It leaves torch, and so has no graph to be seen.
        return False
    while node is not None and MOVES.fullmatch(node.name()):
        node = node.next_functions[0][0]
    return node is not None and "sigmoid" in node.name().casefold()


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
    passes = max(2, passes)
    # Whatever draws from the global generator goes on drawing; its state is put back afterwards.
    with looking(model), global_seed(0, "determinism"):
        together = torch.stack([logits_of(model, x) for _ in range(passes)])  # (passes, B, K)
        single = torch.stack([alone(model, x) for _ in range(passes)])
    both = (together, single)
    furthest = max(float((each - each[0]).abs().max()) for each in both)
    flips = torch.stack([(each.argmax(2) != each[0].argmax(1)).any(dim=0) for each in both])
    flipped = float(flips.any(dim=0).double().mean())
    return Repeats(furthest / _spread(together), flipped, passes)


def is_deterministic(model: nn.Module, x: Tensor) -> bool:
    """Return whether passes in evaluation mode agree."""
    return not repeats(model, x).random


def deterministic(
    model: nn.Module,
    x: Tensor,
    *,
    subject: str,
    eot_draws: int = 1,
    runs: int = 2,
    seen: Repeats | None = None,
) -> Finding:
    """Say whether the same input gives the same logits, else whether attacks average over draws.

    `error`: it does not, and attacks take their gradients from single draws. `note`: it does not,
    and they average over `eot_draws` (expectation over transformation, Athalye et al. 2018).

    Args:
        model: The classifier.
        x: Clean inputs (B, ...).
        subject: Name of the system.
        eot_draws: Draws per gradient in the attacks on this system.
        runs: Forward passes, at least 2.
        seen: What `repeats` gave, where it was asked already.
    """
    seen = seen or repeats(model, x, runs)
    evidence = {
        "largest_difference": seen.difference,
        "flipped": seen.flipped,
        "eot_draws": eot_draws,
    }
    if not seen.random:
        told = (
            f"{seen.passes} forward passes agree within {seen.difference:.1e} of the spread of the "
            "logits."
        )
        return Finding("deterministic", subject, "passed", told, evidence)
    told = (
        f"Forward passes differ by up to {percent(seen.difference)} of the spread of the logits "
        f"and flip {percent(seen.flipped)} of the predictions; attacks average over {eot_draws} "
        "draws."
    )
    severity: Severity = "note" if eot_draws > 1 else "error"
    return Finding("deterministic", subject, severity, told, evidence)


def alone(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (B, K) of inputs (B, ...), each asked about alone."""
    return torch.cat([logits_of(model, one) for one in torch.split(x, 1)])


def apart(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference between logits (B, K), as a share of the spread of `others`."""
    return float((logits - others).abs().max()) / _spread(others)


def _spread(logits: Tensor) -> float:
    return max(float(logits.max() - logits.min()), torch.finfo(logits.dtype).tiny)


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode, and no gradients, inside the block."""
    with evaluating(model), torch.no_grad():
        yield
