"""Checks of gradients: do they exist, and do they say how the loss really changes?

Sources: Athalye et al. 2018, "Obfuscated gradients give a false sense of security"; Carlini &
Wagner 2017 (gradients of the cross-entropy vanish for a model that is too sure, those of the margin
do not).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from servax.attacks.base import evaluating
from servax.attacks.losses import cross_entropy, margin
from servax.attacks.problem import Loss, Problem, logits_of
from servax.errors import ServaxError
from servax.evaluation.checks.finding import Finding, Severity, percent
from servax.evaluation.checks.on_outputs import is_deterministic
from servax.perturbation import Bounds, input_gradient
from servax.training.seeding import drawn, global_seed

MANY_ELEMENTS = 0.5
"""Share of elements without a gradient above which a warning is due."""

MIX = 0.02
"""Share of random values in the inputs at which slopes are compared."""


def zero_gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, subject: str, mask: Tensor | None = None
) -> Finding:
    """Say how many gradients of the loss are exactly zero.

    `error`: the margin loss has no gradient at all for some utterance (or none reaches the input):
    attacks with gradients stand still there. `warning`: the cross-entropy has none for some
    utterance, but the margin has: the model is too sure, attack it with the margin or DLR; or more
    than half of the elements have none.

    Args:
        model: From inputs (B, ...) to logits (B, K).
        x: Clean inputs (B, ...).
        y: True classes (B,).
        subject: Name of the system.
        mask: True where an input may change; the rest is left out of the shares.
    """
    problem = Problem(model=model, x=x, y=y, mask=mask)
    evidence: dict[str, Any] = {}
    for name, loss in (("cross_entropy", cross_entropy), ("margin", margin)):
        try:
            elements, utterances = _zeros(problem, loss)
        except ServaxError as refusal:
            told = f"Attacks with gradients cannot start: {refusal}"
            return Finding("zero-gradients", subject, "error", told, {"refusal": str(refusal)})
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
    return Finding("zero-gradients", subject, severity, told, evidence)


def _zeros(problem: Problem, loss: Loss) -> tuple[float, float]:
    """Return the share of elements, and of utterances, whose gradient is zero."""
    with evaluating(problem.model):
        zero = input_gradient(problem.objective(loss), problem.x) == 0
    everywhere = torch.ones_like(zero)
    open_ = everywhere if problem.mask is None else problem.mask.expand(zero.shape)
    none = (zero | ~open_).flatten(1).all(dim=1)
    return float(zero[open_].double().mean()), float(none.double().mean())


def gradient_is_true(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    subject: str,
    generator: torch.Generator,
    knowledge: Literal["adaptive", "bpda"] = "adaptive",
    bounds: Bounds = (0.0, 1.0),
    directions: int = 3,
    steps: Sequence[float] = (1e-3, 1e-4, 1e-5),
    tolerance: float = 0.1,
) -> Finding:
    """Say whether the gradients are those of the function: finite differences agree with autograd.

    Central differences of the margin loss along the sign of the gradient and along random signs are
    compared with the gradient's own slope, for each of `steps`; the one that agrees best counts,
    since long steps pass kinks and short ones drown in rounding. Straight-through estimators (BPDA)
    and broken backward passes differ. `error`: the median relative error is above `tolerance`, but
    results are labelled adaptive, that is exact. `note`: it is, and they are labelled ``bpda``.
    `not-measured`: the model has no gradient, the loss changes nowhere, they disagree where 16-bit
    numbers round off what such steps change, or the model is random and draws from elsewhere than
    torch's global generator or a ``generator`` of its parts: from these a random model is made to
    draw the same each time.

    Args:
        model: From inputs (B, ...) to logits (B, K).
        x: Clean inputs (B, ...); slopes are taken close to them.
        y: True classes (B,).
        subject: Name of the system.
        generator: Draws the inputs near `x` and the directions.
        knowledge: What the gradients of this system are labelled as.
        bounds: Range of valid inputs.
        directions: Random directions, besides that of the gradient.
        steps: Lengths of a step in each element, as shares of the range, below .005.
        tolerance: Relative error that counts as agreement.
    """
    check = "gradient-is-true"
    model = model if is_deterministic(model, x) else Held(model)
    if not is_deterministic(model, x):
        told = "The model is random: differences between two inputs are those of its draws."
        return Finding(check, subject, "not-measured", told, {})
    width = bounds[1] - bounds[0]
    # Silence is full of equal values, and a maximum has no derivative where two are equal. So they
    # are told apart first, which also moves them away from the bounds.
    drift = drawn(torch.rand, x.shape, generator, x.dtype).to(x.device)
    inside = torch.lerp(x, bounds[0] + (0.25 + 0.5 * drift) * width, MIX)
    problem = Problem(model=model, x=inside, y=y, bounds=bounds)
    try:
        errors = [_errors(*_slopes(problem, step * width, directions, generator)) for step in steps]
    except ServaxError as refusal:
        told = f"There is nothing to compare: {refusal}"
        return Finding(check, subject, "not-measured", told, {"refusal": str(refusal)})
    medians = [float(error.median()) for error in errors if error.numel()]
    if not medians:
        told = "The loss changes along none of the directions."
        return Finding(check, subject, "not-measured", told, {})
    median = min(medians)
    told = (
        f"Finite differences and gradients differ by {percent(median)} in the median over "
        f"{directions + 1} directions and {len(x)} utterances; results are labelled {knowledge}."
    )
    evidence = {"steps": list(steps), "median_relative_errors": medians}
    severity: Severity = "passed"
    if median > tolerance:
        severity = "note" if knowledge == "bpda" else "error"
        if severity == "error" and _rounds_off(model, inside):
            told += " It computes in 16 bits, which round off what such small steps change."
            severity = "not-measured"
    return Finding(check, subject, severity, told, evidence)


def _rounds_off(model: nn.Module, x: Tensor) -> bool:
    """Return whether a number of 16 bits stands somewhere between inputs (B, ...) and logits."""
    with evaluating(model), torch.no_grad():
        logits = logits_of(model, x[:1])
    held = (tensor for tensor in (*model.parameters(), *model.buffers(), x, logits))
    return any(t.is_floating_point() and torch.finfo(t.dtype).bits == 16 for t in held)


class Held(nn.Module):
    """The same model, drawing the same numbers in each pass; what it draws from stays as it was."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, ...)."""
        found = (getattr(module, "generator", None) for module in self.model.modules())
        states = {each: each.get_state() for each in found if isinstance(each, torch.Generator)}
        try:
            for each in states:
                each.manual_seed(0)
            with global_seed(0, "held"):
                return logits_of(self.model, x)
        finally:
            for each, state in states.items():
                each.set_state(state)


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
