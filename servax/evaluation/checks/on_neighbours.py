"""Checks of a model's answers beside and before others: does an utterance stand for itself?

Each takes a classifier, from inputs (B, ...) to logits (B, K), and clean inputs. A random model
cannot be compared with itself, by the same rule as in `deterministic`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.attacks.problem import logits_of
from servax.evaluation.checks.finding import Finding, Severity, out_of_memory, percent
from servax.evaluation.checks.on_outputs import AGREEMENT, Repeats, alone, apart, looking, repeats

BATCHES = (16, 32)
"""Sizes in which models are asked that a few utterances alone do not fill."""


def batch_independence(
    model: nn.Module, x: Tensor, *, subject: str, seen: Repeats | None = None
) -> Finding:
    """Say whether an utterance's logits depend on its neighbours in the batch.

    Compared with each alone are the batch as it is and batches of 16 and 32, in which utterances
    stand more than once. `error`: they do depend, so that one utterance's attack moves another's
    prediction. `not-measured`: there is one utterance, or the model is random (by the same rule as
    in `deterministic`) and cannot be compared with itself.
    """
    check = "batch-independence"
    if len(x) < 2:
        return Finding(check, subject, "not-measured", "The batch holds one utterance.", {})
    if (seen or repeats(model, x)).random:
        told = "The model is random: its logits differ without any neighbour."
        return Finding(check, subject, "not-measured", told, {})
    differences, flips = {}, {}
    with looking(model):
        single = alone(model, x)
        for size in sorted({len(x), *BATCHES}):
            rows = torch.arange(size, device=x.device) % len(x)
            together = logits_of(model, x[rows])
            differences[size] = apart(together, single[rows])
            flips[size] = float((together.argmax(1) != single[rows].argmax(1)).double().mean())
    size = max(differences, key=lambda each: differences[each])
    told = (
        f"Logits alone and in batches of {', '.join(map(str, differences))} differ by up to "
        f"{differences[size]:.1e} of their spread (of {size}); {percent(flips[size])} of the "
        "predictions change."
    )
    severity: Severity = "passed" if differences[size] <= AGREEMENT else "error"
    evidence = {
        "largest_difference": differences[size],
        "flipped": flips[size],
        "differences": {str(each): value for each, value in differences.items()},
    }
    return Finding(check, subject, severity, told, evidence)


def padding(
    model: nn.Module,
    x: Tensor,
    *,
    subject: str,
    longer: Tensor | None = None,
    seen: Repeats | None = None,
) -> Finding:
    """Say whether an answer depends on silence beside an utterance, or on what stands behind it.

    `error`: on what stands beside it: silence, and its own sound at full scale. `warning`: what
    stands behind it changes a prediction: the figures hold for one way of filling up alone.
    `note`: it moves logits, and no prediction. `not-measured`: the model is random.

    Args:
        model: The classifier.
        x: Clean inputs (B, ...).
        subject: Name of the system.
        longer: The same utterances with something behind them; a model may refuse the length.
        seen: What `repeats` gave, where it was asked already.
    """
    check = "padding"
    if (seen or repeats(model, x)).random:
        told = "The model is random: its logits differ whatever stands beside or behind."
        return Finding(check, subject, "not-measured", told, {})
    with looking(model):
        single = alone(model, x)
        rows = torch.stack([x, torch.zeros_like(x), x.sign()], dim=1)  # (B, 3, ...)
        beside = apart(torch.cat([logits_of(model, row)[:1] for row in rows]), single)
        behind = None if longer is None else _accepted(model, longer)
    told = f"Silence and loud sound beside an utterance move its logits by {beside:.1e}"
    evidence: dict[str, float | None] = {"beside": beside, "behind": None, "flipped": None}
    severity: Severity = "passed" if beside <= AGREEMENT else "error"
    if behind is None:
        told += "; nothing else can stand behind it: its length is fixed."
    else:
        moved = apart(behind, single)
        flipped = float((behind.argmax(1) != single.argmax(1)).double().mean())
        evidence |= {"behind": moved, "flipped": flipped}
        told += (
            f", something else behind it by {moved:.1e} of their spread and changes "
            f"{percent(flipped)} of the predictions."
        )
        if severity == "passed" and not moved <= AGREEMENT:
            severity = "warning" if flipped else "note"
    return Finding(check, subject, severity, told, evidence)


def _accepted(model: nn.Module, longer: Tensor) -> Tensor | None:
    """Return the logits (B, K) of inputs of another length, or None where it takes none."""
    try:
        return alone(model, longer)
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
