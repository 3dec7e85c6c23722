"""Checks of gradients: were they followed, do they exist, and do they say how the loss changes?

Sources: Athalye et al. 2018, "Obfuscated gradients give a false sense of security"; Carlini &
Wagner 2017 (gradients of the cross-entropy vanish for a model that is too sure, those of the margin
do not).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from servax.attacks import Problem, cross_entropy, logits_of, margin
from servax.attacks.logits import Loss
from servax.defences import SameDraws
from servax.errors import ServaxError
from servax.evaluation.checks.case import Case
from servax.evaluation.checks.declared import Check, Finding, Severity, Verdict, percent
from servax.evaluation.systems import System
from servax.evaluation.trial import repeats
from servax.models import evaluating
from servax.perturbation import input_gradient
from servax.training import drawn

NO_TORCH = "audit the torch model that it was made of"
"""What to do about a model without gradients that is not made of torch."""
MANY_ELEMENTS = 0.5
"""Share of elements without a gradient above which a warning is due."""

DIRECTIONS = 3
"""Random directions in which slopes are compared, besides that of the gradient."""
STEPS = (1e-3, 1e-4, 1e-5)
"""Lengths of a step in each element, as shares of the range."""
TOLERANCE = 0.1
"""Relative error that counts as agreement."""
MIX = 0.02
"""Share of random values in the inputs at which slopes are compared."""


@partial(Check, gradients=True)
def zero_gradients(case: Case) -> Verdict:
    """Say how many gradients of the loss are exactly zero.

    `error`: the margin loss has no gradient at all for some utterance (or none reaches the input):
    attacks with gradients stand still there. `warning`: the cross-entropy has none for some
    utterance, but the margin has: the model is too sure, attack it with the margin or DLR; or more
    than half of the elements have none. Elements that may not change are left out of the shares.
    """
    problem = Problem(model=case.faced, x=case.x, y=case.y, mask=case.mask)
    evidence: dict[str, Any] = {}
    for name, loss in (("cross_entropy", cross_entropy), ("margin", margin)):
        try:
            elements, utterances = _zeros(problem, loss)
        except ServaxError as refusal:
            told = f"Attacks with gradients cannot start: {refusal}"
            return "error", told, {"refusal": str(refusal)}
        evidence |= {f"{name}_elements": elements, f"{name}_utterances": utterances}
    told = (
        f"No gradient at all for {percent(evidence['margin_utterances'])} of the utterances with "
        f"the margin loss, {percent(evidence['cross_entropy_utterances'])} with cross-entropy; for "
        f"{percent(evidence['margin_elements'])} and {percent(evidence['cross_entropy_elements'])} "
        "of the elements."
    )
    severity: Severity = "passed"
    if evidence["margin_utterances"] > 0:
        severity = "error"
    elif evidence["cross_entropy_utterances"] > 0 or evidence["margin_elements"] > MANY_ELEMENTS:
        severity = "warning"
    return severity, told, evidence


def _zeros(problem: Problem, loss: Loss) -> tuple[float, float]:
    """Return the share of elements, and of utterances, whose gradient is zero."""
    with evaluating(problem.model):
        zero = input_gradient(problem.objective(loss), problem.x) == 0
    everywhere = torch.ones_like(zero)
    open_ = everywhere if problem.mask is None else problem.mask.expand(zero.shape)
    none = (zero | ~open_).flatten(1).all(dim=1)
    return float(zero[open_].double().mean()), float(none.double().mean())


@partial(Check, gradients=True, part=lambda count: min(4, count))
def gradient_is_true(case: Case) -> Verdict:
    """Say whether the gradients are those of the function: finite differences agree with autograd.

    Central differences of the margin loss along the sign of the gradient and along random signs are
    compared with the gradient's own slope, for each of `STEPS`; the one that agrees best counts,
    since long steps pass kinks and short ones drown in rounding. Straight-through estimators (BPDA)
    and broken backward passes differ. `error`: the median relative error is above `TOLERANCE`, but
    results are labelled adaptive, that is exact. `note`: it is, and they are labelled ``bpda``.
    `not-measured`: the model has no gradient, the loss changes nowhere, they disagree where 16-bit
    numbers round off what such steps change, or the model is random and draws from elsewhere than
    torch's global generator or a ``generator`` of its parts: from these a random model is made to
    draw the same each time.
    """
    x, bounds, generator = case.x, case.bounds, case.generator
    knowledge = "adaptive" if case.system.exact else "bpda"
    model = SameDraws(case.model) if repeats(case.model, x).random else case.model
    if repeats(model, x).random:
        told = "The model is random: differences between two inputs are those of its draws."
        return "not-measured", told, {}
    width = bounds[1] - bounds[0]
    # Silence is full of equal values, and a maximum has no derivative where two are equal. So they
    # are told apart first, which also moves them away from the bounds.
    drift = drawn(torch.rand, x.shape, generator, x.dtype).to(x.device)
    inside = torch.lerp(x, bounds[0] + (0.25 + 0.5 * drift) * width, MIX)
    problem = Problem(model=model, x=inside, y=case.y, bounds=bounds)
    try:
        errors = [_errors(*_slopes(problem, step * width, DIRECTIONS, generator)) for step in STEPS]
    except ServaxError as refusal:
        told = f"There is nothing to compare: {refusal}"
        return "not-measured", told, {"refusal": str(refusal)}
    medians = [float(error.median()) for error in errors if error.numel()]
    if not medians:
        told = "The loss changes along none of the directions."
        return "not-measured", told, {}
    median = min(medians)
    told = (
        f"Finite differences and gradients differ by {percent(median)} in the median over "
        f"{DIRECTIONS + 1} directions and {len(x)} utterances; results are labelled {knowledge}."
    )
    evidence = {"steps": list(STEPS), "median_relative_errors": medians}
    severity: Severity = "passed"
    if median > TOLERANCE:
        severity = "error" if case.system.exact else "note"
        if severity == "error" and _rounds_off(model, inside):
            told += " It computes in 16 bits, which round off what such small steps change."
            severity = "not-measured"
    return severity, told, evidence


def _rounds_off(model: nn.Module, x: Tensor) -> bool:
    """Return whether a number of 16 bits stands somewhere between inputs (B, ...) and logits."""
    with evaluating(model), torch.no_grad():
        logits = logits_of(model, x[:1])
    held = (tensor for tensor in (*model.parameters(), *model.buffers(), x, logits))
    return any(t.is_floating_point() and torch.finfo(t.dtype).bits == 16 for t in held)


def _errors(slopes: Tensor, differences: Tensor) -> Tensor:
    """Return the relative errors (n,) where something changes."""
    size = torch.maximum(slopes.abs(), differences.abs())
    # Along some directions next to nothing changes, and float32 sees only rounding.
    seen = size > 1e-2 * size.max()
    return ((slopes - differences).abs() / size)[seen]


def _slopes(
    problem: Problem, length: float, directions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return slopes along directions by autograd and by central differences, each (R, B)."""
    x, objective = problem.x, problem.objective(margin)
    with evaluating(problem.model), torch.no_grad():
        gradient = input_gradient(objective, x)
        ways = [gradient.sign()]
        for _ in range(directions):
            ways.append(drawn(torch.randn, x.shape, generator, x.dtype).to(x.device).sign())
        slopes = [(gradient * way).flatten(1).sum(dim=1) for way in ways]
        differences = [
            (objective(x + length * way) - objective(x - length * way)) / (2.0 * length)
            for way in ways
        ]
    return torch.stack(slopes), torch.stack(differences)


def white_box(system: System, bare: System, knowledge: Collection[str]) -> Finding:
    """Say whether attackers went through a system by its gradients.

    `error`: none could, so that all figures are those of attackers who only ask: the way of the
    gradient is cut in a model of torch, or there is none, and the audit was not asked for black-box
    attacks alone. `warning`: there is none, and it was; or gradients are there and were not asked
    for. `note`: the identity stood for a step without gradient (BPDA). `passed`: they did.

    Args:
        system: Which system.
        bare: The model without a defence.
        knowledge: Which attackers the audit was asked for.
    """
    severity, told = _through(system, bare, set(knowledge))
    evidence = {"gradients": system.gradients, "exact": system.exact, "reason": system.shut}
    return Finding("white-box", system.name, severity, told, evidence)


def _through(system: System, bare: System, known: set[str]) -> tuple[Severity, str]:
    name = system.name
    if system.shut:
        to_do = _remedy(system, bare)
        wanted = bool({"adaptive", "bpda"} & known) or to_do != NO_TORCH
        if wanted and to_do == NO_TORCH:
            to_do += ", or ask for --knowledge black_box alone to say that it is known"
        none = f"Black box only: no white-box attack was possible on {name}, since {system.shut}"
        if bare.gradients and system.bridgeable and "bpda" in known:
            none = (
                f"No exact white-box attack was possible on {name}, since {system.shut}; the "
                "identity stood for its gradient (BPDA)"
            )
        return "error" if wanted else "warning", f"{none}; {to_do}."
    straight = not system.exact or system.front is not None
    if "adaptive" not in known and not ("bpda" in known and straight):
        return "warning", (
            f"Black box only: white-box attacks on {name} are possible, but were not asked for; "
            "add adaptive to --knowledge."
        )
    if system.exact:
        return "passed", f"Gradients of {name} reach its input, and attacks follow them."
    return "note", (
        f"Attacks on {name} follow gradients in which the identity stands for a step that has "
        "none (BPDA): they are not exact."
    )


def _remedy(system: System, bare: System) -> str:
    """Return what to do about a system without gradients: where torch has some, let them pass."""
    in_front = system.front is not None and bare.gradients
    if in_front:
        return (
            "compute its step in torch, or give the defence the attribute knowledge = 'bpda', so "
            "that the identity stands for its gradient"
        )
    # Behind a defence it is the bare model that has none.
    model = system.model if system.front is None else bare.model
    if any(each.is_floating_point() for each in (*model.parameters(), *model.buffers())):
        return (
            "compute the step that cuts the gradient in torch, or name it in the model's attribute "
            "bpda where it keeps the shape of its input"
        )
    return NO_TORCH
