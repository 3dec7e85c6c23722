"""Checks of an attack on a model: does it reach what it must, and is it tuned?

Accuracies are shares of right predictions over the given utterances. Source: Carlini et al. 2019,
"On evaluating adversarial robustness".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from servax.attacks.base import Attack, evaluating
from servax.attacks.gradient import PGD
from servax.attacks.problem import logits_of
from servax.errors import SettingError
from servax.evaluation.checks.conditions import POINT
from servax.evaluation.checks.finding import Finding, Severity, percent

FEWEST_RESTARTS = 5


def large_epsilon(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[[float], Attack],
    subject: str,
    generator: torch.Generator | None = None,
    share: float = 0.25,
    fallen: Tensor | None = None,
    draws: int = 1,
) -> Finding:
    """Say whether a large ball breaks the model, and one as wide as the bounds every utterance.

    Balls are nested: who is wrong without attack, or fell in a smaller one, has fallen in a larger
    one, and only the others are attacked there. `error`: with a radius of `share` of the range the
    accuracy stays above chance (1 / K) by more than one utterance, or with the whole range above 0
    by more than one: there the attack, not the model, decides. `not-measured`: fewer than two
    utterances.

    Args:
        model: From inputs (B, ...) to logits (B, K).
        x: Clean inputs (B, ...).
        y: True classes (B,).
        attack: From a radius to the attack, as ``lambda radius: PGD(epsilon=radius, ...)``; its
            step should grow with the radius.
        subject: Name of the system.
        generator: Draws whatever is random in the attack.
        share: The large radius: the norm of a change of all elements by this share of the range.
        fallen: Who fell in a smaller ball, bool (B,).
        draws: Passes that vote on each answer, more than one for a random model.
    """
    if len(x) < 2:
        told = "One utterance more or less is all of them."
        return Finding("large-epsilon", subject, "not-measured", told, {})
    votes = _votes(model, x, draws)
    standing = votes.argmax(dim=1) == y
    if fallen is not None:
        standing &= ~fallen
    accuracies, radii = [], []
    for part in (share, 1.0):
        probe = attack(1.0)
        width = part * (probe.bounds[1] - probe.bounds[0])
        radius = float(probe.ball.norm(torch.full_like(x[:1], width)))
        rows = torch.nonzero(standing).squeeze(1)
        if len(rows):
            moved = attack(radius)(model, x[rows], y[rows], generator=generator)
            standing[rows] = _votes(model, moved, draws).argmax(dim=1) == y[rows]
        accuracies.append(float(standing.double().mean()))
        radii.append(radius)
    large, unbounded = accuracies
    chance, one = 1.0 / votes.shape[1], 1.0 / len(x) + 1e-9
    told = (
        f"Accuracy {percent(large)} at radius {radii[0]:g} (chance {percent(chance)}) and "
        f"{percent(unbounded)} at radius {radii[1]:g}, the whole range."
    )
    evidence = {"radii": radii, "accuracies": accuracies, "chance": chance}
    severity: Severity = "error" if large > chance + one or unbounded > one else "passed"
    return Finding("large-epsilon", subject, severity, told, evidence)


def restarts_and_steps(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: PGD,
    subject: str,
    generator: torch.Generator,
    restarts: int = FEWEST_RESTARTS,
    draws: int = 1,
) -> Finding:
    """Say whether random restarts or another step size are stronger than the settings used.

    The accuracy under `attack` is compared with that of the worst case over `restarts` random
    starts and with that of one run for each step of radius / 10, radius / 4, radius / 2 and
    2.5 · radius / steps (Madry et al. 2018). `warning`: the best of them is lower by more than a
    point, and by more than one utterance. About (restarts + 5) · steps gradients. Where `draws` are
    more than one, as many passes vote on each answer.

    Raises:
        SettingError: Fewer than 5 restarts, or a radius of 0.
    """
    if restarts < FEWEST_RESTARTS:
        raise SettingError("restarts", restarts, f"a whole number of at least {FEWEST_RESTARTS}")
    if attack.epsilon <= 0:
        raise SettingError("epsilon", attack.epsilon, "a number above 0, there is nothing to sweep")

    def right(setting: PGD) -> Tensor:
        return _votes(model, setting(model, x, y, generator=generator), draws).argmax(dim=1) == y

    used = float(right(attack).double().mean())
    started = replace(attack, random_start=True)
    survivors = torch.stack([right(started) for _ in range(restarts)]).all(dim=0)
    found = {f"{restarts} restarts": float(survivors.double().mean())}
    for step in _steps(attack):
        found[f"step {step:g}"] = float(right(replace(attack, step=step)).double().mean())
    best = min(found, key=lambda name: found[name])
    gain = used - found[best]
    weak = gain > POINT and gain > 1.0 / len(x) + 1e-9
    told = (
        f"Accuracy {percent(used)} with the settings used (step {attack.step:g}), "
        f"{percent(found[best])} with the strongest of {len(found)} others ({best})."
    )
    evidence: dict[str, Any] = {"used": used, "best": best, "found": found}
    severity: Severity = "warning" if weak else "passed"
    return Finding("restarts-and-steps", subject, severity, told, evidence)


def _steps(attack: PGD) -> list[float]:
    radius = attack.epsilon
    return sorted({radius / 10, radius / 4, radius / 2, 2.5 * radius / int(attack.steps)})


def _votes(model: nn.Module, x: Tensor, draws: int) -> Tensor:
    """Return for each class how many of `draws` passes predict it, (B, K)."""
    with evaluating(model), torch.no_grad():
        passes = [logits_of(model, x) for _ in range(draws)]
    return torch.stack([nn.functional.one_hot(p.argmax(1), p.shape[1]) for p in passes]).sum(dim=0)
