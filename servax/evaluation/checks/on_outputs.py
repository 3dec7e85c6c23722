"""Checks of what a model returns: is it fit to be attacked and scored at all?

Each takes a classifier, from inputs (B, ...) to logits (B, K), and clean inputs; a few forward
passes. Except for `evaluation_mode` the model is in evaluation mode while it is looked at, and is
left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from servax.attacks.base import evaluating
from servax.attacks.problem import logits_of
from servax.evaluation.checks.finding import Finding, Severity, percent
from servax.training.seeding import global_seed

AGREEMENT = 1e-3
"""Largest difference between logits that counts as rounding, as a share of their spread."""


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


def outputs_are_logits(model: nn.Module, x: Tensor, *, subject: str) -> Finding:
    """Say whether the outputs are logits.

    `error`: probabilities (all at least 0, rows sum to 1): a second softmax in the loss flattens
    the gradients. `note`: log-probabilities, which are logits too.
    """
    with _looking(model):
        logits = logits_of(model, x)
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
    elif log_sums < 1e-3:
        severity = "note"
        told = f"The outputs are log-probabilities: their logsumexp is 0 within {log_sums:.1e}."
    return Finding("outputs-are-logits", subject, severity, told, evidence)


def deterministic(
    model: nn.Module, x: Tensor, *, subject: str, eot_draws: int = 1, runs: int = 2
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
    """
    difference, flipped = _disagreement(model, x, runs)
    evidence = {"largest_difference": difference, "flipped": flipped, "eot_draws": eot_draws}
    if difference <= AGREEMENT:
        told = f"{runs} forward passes agree within {difference:.1e} of the spread of the logits."
        return Finding("deterministic", subject, "passed", told, evidence)
    told = (
        f"Forward passes differ by up to {percent(difference)} of the spread of the logits and "
        f"flip {percent(flipped)} of the predictions; attacks average over {eot_draws} draws."
    )
    severity: Severity = "note" if eot_draws > 1 else "error"
    return Finding("deterministic", subject, severity, told, evidence)


def is_deterministic(model: nn.Module, x: Tensor) -> bool:
    """Return whether two forward passes in evaluation mode agree."""
    return _disagreement(model, x, 2)[0] <= AGREEMENT


def batch_independence(model: nn.Module, x: Tensor, *, subject: str) -> Finding:
    """Say whether an utterance's logits depend on its neighbours in the batch.

    `error`: they do, so that one utterance's attack moves another's prediction. `not-measured`: the
    batch holds one utterance, or the model is random and cannot be compared with itself.
    """
    check = "batch-independence"
    if len(x) < 2:
        return Finding(check, subject, "not-measured", "The batch holds one utterance.", {})
    if not is_deterministic(model, x):
        told = "The model is random: its logits differ without any neighbour."
        return Finding(check, subject, "not-measured", told, {})
    with _looking(model):
        together = logits_of(model, x)
        alone = torch.cat([logits_of(model, one) for one in torch.split(x, 1)])
    difference = float((together - alone).abs().max()) / _spread(together)
    flipped = float((together.argmax(1) != alone.argmax(1)).double().mean())
    told = (
        f"Logits alone and in a batch of {len(x)} differ by up to {difference:.1e} of their "
        f"spread; {percent(flipped)} of the predictions change."
    )
    severity: Severity = "passed" if difference <= AGREEMENT else "error"
    evidence = {"largest_difference": difference, "flipped": flipped}
    return Finding(check, subject, severity, told, evidence)


def _disagreement(model: nn.Module, x: Tensor, runs: int) -> tuple[float, float]:
    """Return the largest difference between runs, by the spread, and the share of flips."""
    # Whatever draws from the global generator goes on drawing; its state is put back afterwards.
    with _looking(model), global_seed(0, "determinism"):
        logits = torch.stack([logits_of(model, x) for _ in range(max(2, runs))])  # (runs, B, K)
    difference = float((logits - logits[0]).abs().max()) / _spread(logits)
    classes = logits.argmax(dim=2)
    return difference, float((classes != classes[0]).any(dim=0).double().mean())


def _spread(logits: Tensor) -> float:
    return max(float(logits.max() - logits.min()), torch.finfo(logits.dtype).tiny)


@contextmanager
def _looking(model: nn.Module) -> Iterator[None]:
    with evaluating(model), torch.no_grad():
        yield
