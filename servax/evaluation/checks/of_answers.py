"""Checks of what a model answers: is it fit to be attacked and scored at all?

Except for `evaluation_mode` the model is in evaluation mode while it is looked at, and is left as
it was. A random model cannot be compared with itself: what is random is measured once per case.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from servax.attacks import logits_of
from servax.evaluation.checks.case import Case
from servax.evaluation.checks.declared import Check, Severity, Verdict, percent
from servax.evaluation.trial import AGREEMENT, alone, out_of_memory, spread
from servax.models import evaluating
from servax.training import drawn, generator

BATCHES = (16, 32)
"""Sizes in which models are asked that a few utterances alone do not fill."""
MOVES = re.compile(
    "(Unsafe)?(View|Reshape|Squeeze|Unsqueeze|Clone|Slice|Select|Cat|Stack|Unbind|Split|Expand|"
    "Permute|Transpose|T|To?Copy)(Alias)?Backward.*"
)
"""How steps of a graph are called that move values and change none."""


@Check
def evaluation_mode(case: Case) -> Verdict:
    """Say whether every part of the model is in evaluation mode.

    `error`: some part is in training mode, as given or still after ``model.eval()``: dropout draws
    and batch norm mixes utterances.
    """
    given = _training(case.model)
    with evaluating(case.model):
        stuck = _training(case.model)
    if not given and not stuck:
        return "passed", "All parts are in evaluation mode.", {}
    first = (stuck or given)[0]
    told = (
        f"{len(stuck or given)} parts of the model (first: {first}) are in training mode"
        f"{', even after eval()' if stuck else ''}."
    )
    return "error", told, {"training": given, "training_after_eval": stuck}


def _training(model: nn.Module) -> list[str]:
    return [
        f"{name or 'the model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if module.training
    ]


@Check
def outputs_are_logits(case: Case) -> Verdict:
    """Say whether the outputs are logits.

    `error`: probabilities, so that the loss flattens the gradients once more: all at least 0 with
    rows that sum to 1 (softmax); or all in [0, 1], also for silence and noise, where a sigmoid is
    seen to come last or both ends of that range are reached (sigmoids). `warning`: logits of
    questions of their own, of which several may be answered yes (a multi-label head). `note`:
    log-probabilities, which are logits too.
    """
    model, x = case.model, case.x
    low, high = x.amin(), x.amax()
    noise = low + (high - low) * drawn(torch.rand, x.shape, generator(0, "outputs"), x.dtype).to(x)
    with evaluating(model), torch.no_grad():
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
    # Logits in [0, 1] hardly come close to both ends by chance.
    spanned = float(wide.min()) < 0.05 and float(wide.max()) > 0.95
    severity: Severity = "passed"
    told = f"The outputs lie in [{evidence['lowest']:.3g}, {evidence['highest']:.3g}]: logits."
    if bool((logits >= 0).all()) and sums < 1e-3:
        severity = "error"
        told = (
            f"The outputs are probabilities: none is below 0 and each row sums to 1 within "
            f"{sums:.1e}; attack the model without its softmax."
        )
    elif 0 <= float(wide.min()) <= float(wide.max()) <= 1 and (spanned or _squashed(model, x)):
        severity = "error"
        told = (
            "The outputs are probabilities of one class each: all lie in [0, 1], also for silence "
            "and noise, and rows do not sum to 1; attack the model without its sigmoid."
        )
    elif case.system.multi_label:
        severity = "warning"
        told = (
            "The head is a multi-label one: its outputs answer one question each, and the highest "
            "was taken for the only answer."
        )
    elif log_sums < 1e-3:
        severity = "note"
        told = f"The outputs are log-probabilities: their logsumexp is 0 within {log_sums:.1e}."
    return severity, told, evidence


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


@Check
def deterministic(case: Case) -> Verdict:
    """Say whether the same input gives the same logits, else whether attacks average over draws.

    `error`: it does not, and attacks take their gradients from single draws. `note`: it does not,
    and they average over draws (expectation over transformation, Athalye et al. 2018).
    """
    seen, draws = case.seen, case.eot_draws
    evidence = {
        "largest_difference": seen.difference,
        "flipped": seen.flipped,
        "eot_draws": draws,
    }
    if not seen.random:
        told = (
            f"{seen.passes} forward passes agree within {seen.difference:.1e} of the spread of the "
            "logits."
        )
        return "passed", told, evidence
    told = (
        f"Forward passes differ by up to {percent(seen.difference)} of the spread of the logits "
        f"and flip {percent(seen.flipped)} of the predictions; attacks average over {draws} draws."
    )
    return "note" if draws > 1 else "error", told, evidence


@Check
def batch_independence(case: Case) -> Verdict:
    """Say whether an utterance's logits depend on its neighbours in the batch.

    Compared with each alone are the batch as it is and batches of 16 and 32, in which utterances
    stand more than once. `error`: they do depend, so that one utterance's attack moves another's
    prediction. `not-measured`: there is one utterance, or the model is random (by the same rule as
    in `deterministic`) and cannot be compared with itself.
    """
    model, x = case.model, case.x
    if len(x) < 2:
        return "not-measured", "The batch holds one utterance.", {}
    if case.seen.random:
        told = "The model is random: its logits differ without any neighbour."
        return "not-measured", told, {}
    differences, flips = {}, {}
    with evaluating(model), torch.no_grad():
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
    return severity, told, evidence


@Check
def padding(case: Case) -> Verdict:
    """Say whether an answer depends on silence beside an utterance, or on what stands behind it.

    `error`: on what stands beside it: silence, and its own sound at full scale. `warning`: what
    stands behind it changes a prediction: the figures hold for one way of filling up alone.
    `note`: it moves logits, and no prediction. `not-measured`: the model is random.
    """
    model, x, longer = case.model, case.x, case.longer
    if case.seen.random:
        told = "The model is random: its logits differ whatever stands beside or behind."
        return "not-measured", told, {}
    with evaluating(model), torch.no_grad():
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
    return severity, told, evidence


def _accepted(model: nn.Module, longer: Tensor) -> Tensor | None:
    """Return the logits (B, K) of inputs of another length, or None where it takes none."""
    try:
        return alone(model, longer)
    except Exception as error:
        if out_of_memory(error):
            raise
        return None


@Check
def clip_keeps_clean(case: Case) -> Verdict:
    """Say whether clean inputs are inside the bounds: clipping changes none of them.

    `error`: it changes some, so that an attack clips away part of the input for free, or refuses
    it.
    """
    x, bounds = case.x, case.bounds
    moved = (x.clamp(*bounds) - x).abs()
    changed, furthest = float((moved != 0).double().mean()), float(moved.max())
    told = (
        f"Clipping to [{bounds[0]:g}, {bounds[1]:g}] changes {percent(changed)} of the elements of "
        f"clean inputs, by at most {furthest:.3g}."
    )
    evidence = {"changed": changed, "furthest": furthest, "bounds": list(bounds)}
    return "error" if changed else "passed", told, evidence


def apart(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference between logits (B, K), as a share of the spread of `others`."""
    return float((logits - others).abs().max()) / spread(others)
