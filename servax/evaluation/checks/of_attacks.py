"""Checks of an attack on a model: does it reach what it must, is it tuned, does it stay inside?

Accuracies are shares of right predictions over the given utterances. Source: Carlini et al. 2019,
"On evaluating adversarial robustness".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from servax.attacks import APGD, PGD, Attack
from servax.errors import SettingError, ShapeError
from servax.evaluation.checks.case import Case, votes
from servax.evaluation.checks.declared import Check, Finding, Severity, Verdict, percent
from servax.perturbation import Ball, into_16_bit
from servax.runtime.samples import STEP_16_BIT

RESTARTS = 5
"""Random starts whose worst case is taken."""
POINT = 0.01
"""A point of accuracy."""
LARGE = (0.25, 1.0)
"""Large radii: the norm of a change of all elements by these shares of the range."""
WIDE_STEPS = 20
"""Steps of an attack whose ball is far larger than it needs."""


@partial(Check, gradients=True)
def large_epsilon(
    case: Case,
    *,
    attack: Callable[[float], Attack] | None = None,
    fallen: Tensor | None = None,
) -> Verdict:
    """Say whether a large ball breaks the model, and one as wide as the bounds every utterance.

    Balls are nested: who is wrong without attack, or fell in a smaller one, has fallen in a larger
    one, and only the others are attacked there. `error`: with a radius of a quarter of the range
    the accuracy stays above chance (1 / K) by more than one utterance, or with the whole range
    above 0 by more than one: there the attack, not the model, decides. `not-measured`: fewer than
    two utterances.

    Args:
        case: The model.
        attack: From a radius to the attack, such as ``lambda radius: PGD(epsilon=radius, ...)``;
            its step should grow with the radius. By default Auto-PGD.
        fallen: Who fell in a smaller ball, bool (B,); by default who falls to the case's attack.
    """
    model, x, y, draws = case.faced, case.x, case.y, case.votes
    if len(x) < 2:
        told = "One utterance more or less is all of them."
        return "not-measured", told, {}
    said = votes(model, x, draws)
    standing = said.argmax(dim=1) == y
    if fallen is None:
        fallen = votes(model, case.attacked, 1).argmax(dim=1) != y
    standing &= ~fallen
    # Auto-PGD, since in a ball that wide a fixed step leads to where ReLUs have no gradient. Who
    # leaves at the first draw that errs was lucky: a random system is attacked to the end.
    wide = APGD(
        norm=case.attack.norm, bounds=case.bounds, steps=WIDE_STEPS, early_stop=case.votes == 1
    )
    attack = attack or (lambda radius: replace(wide, epsilon=radius))
    accuracies, radii = [], []
    for share in LARGE:
        probe = attack(1.0)
        width = share * (probe.bounds[1] - probe.bounds[0])
        radius = float(probe.ball.around(x[:1]).norm(torch.full_like(x[:1], width)))
        rows = torch.nonzero(standing).squeeze(1)
        if len(rows):
            moved = attack(radius)(model, x[rows], y[rows], generator=case.generator)
            standing[rows] = votes(model, moved, draws).argmax(dim=1) == y[rows]
        accuracies.append(float(standing.double().mean()))
        radii.append(radius)
    large, unbounded = accuracies
    chance, one = 1.0 / said.shape[1], 1.0 / len(x) + 1e-9
    told = (
        f"Accuracy {percent(large)} at radius {radii[0]:g} (chance {percent(chance)}) and "
        f"{percent(unbounded)} at radius {radii[1]:g}, the whole range."
    )
    evidence = {"radii": radii, "accuracies": accuracies, "chance": chance}
    severity: Severity = "error" if large > chance + one or unbounded > one else "passed"
    return severity, told, evidence


@partial(Check, gradients=True)
def inside_ball(case: Case, *, adversarial: Tensor | None = None) -> Verdict:
    """Say whether adversarial inputs are inside ball and bounds, and still are as 16-bit WAV files.

    `error`: some are outside, by more than rounding, or as WAV files by more than one 16-bit step
    per sample. By less is what writing a file does to any sound: the sentence tells it.

    Args:
        case: The model; waveforms (B, T) are judged as 16-bit files hold them too.
        adversarial: What the attack returned, (B, ...), by default that of the case.

    Raises:
        ShapeError: The two do not have one shape.
    """
    x, bounds = case.x, case.bounds
    ball = case.attack.ball.around(x)
    adversarial = case.attacked if adversarial is None else adversarial
    if adversarial.shape != x.shape:
        raise ShapeError("adversarial", adversarial.shape, f"{tuple(x.shape)}, that of x")
    outside = int(((adversarial < bounds[0]) | (adversarial > bounds[1])).sum())
    distance = float(ball.norm(adversarial - x).max())
    evidence = {"radius": ball.radius, "distance": distance, "elements_out_of_bounds": outside}
    told = f"At most {distance:.6g} from the clean input (radius {ball.radius:g})"
    told += f", {outside} elements out of bounds"
    inside = distance <= _limit(x, ball, 0.0) and not outside
    severity: Severity = "passed" if inside else "error"
    if x.ndim == 2:
        written = float(ball.norm(into_16_bit(adversarial) - x).max())
        evidence["distance_as_wav"] = written
        told += f"; {written:.6g} once written as 16-bit WAV"
        if inside and not written <= _limit(x, ball, 0.0):
            rounded = written <= _limit(x, ball, STEP_16_BIT)
            severity = "passed" if rounded else "error"
            told += ", by the rounding of the file alone" * rounded
    return severity, f"{told}.", evidence


def attacks_move(system: str, measures: pd.DataFrame) -> Finding:
    """Say whether the attacks on a system changed what it hears at all.

    A file of 16 bits holds no change that is smaller than half a step: a budget below that leaves
    everything as it was, and everybody right. `error`: every attack left everybody alone.
    `warning`: the one that moved most left some alone. `not-measured`: nobody was worth an attack.

    Args:
        system: Its name.
        measures: A row for each attack on it, with how many utterances were `attacked` and `moved`.
    """
    tried = measures[measures["attacked"] > 0] if "attacked" in measures else measures[:0]
    if tried.empty:
        told = "No utterance was worth an attack: none was right without one."
        return Finding("attacks-move", system, "not-measured", told, {})
    shares = tried["moved"] / tried["attacked"]
    most = tried.iloc[int(shares.to_numpy().argmax())]
    moved, attacked = int(most["moved"]), int(most["attacked"])
    evidence = {"attack": str(most["attack"]), "moved": moved, "attacked": attacked}
    if moved == attacked:
        return Finding("attacks-move", system, "passed", "Attacks move their inputs.", evidence)
    told = (
        f"The attack that moves most, {most['attack']}, moves {moved} of {attacked} utterances; "
        "of others rounding to 16 bits takes back all that the budget allows, or there is no "
        "gradient."
    )
    return Finding("attacks-move", system, "warning" if moved else "error", told, evidence)


def _limit(x: Tensor, ball: Ball, step: float) -> float:
    """Return the radius with room for rounding, and for `step` in each element."""
    rounding = 4.0 * torch.finfo(x.dtype).eps * (float(x.abs().max()) + ball.radius)
    slack = float(ball.norm(torch.full_like(x[:1], rounding + step)))
    return ball.radius * (1 + 1e-5) + slack


@partial(Check, gradients=True)
def restarts_and_steps(case: Case) -> Verdict:
    """Say whether random restarts or another step size are stronger than the settings used.

    The accuracy under the case's attack is compared with that of the worst case over `RESTARTS`
    random starts and with that of one run for each step of radius / 10, radius / 4, radius / 2 and
    2.5 · radius / steps (Madry et al. 2018). `warning`: the best of them is lower by more than a
    point, and by more than one utterance; of a random model by more than two standard errors of the
    difference. About (`RESTARTS` + 5) · steps gradients.

    Raises:
        SettingError: There is no radius to sweep.
    """
    model, x, y, draws = case.faced, case.x, case.y, case.votes
    attack = case.attack
    if attack.epsilon <= 0:
        raise SettingError("epsilon", attack.epsilon, "a number above 0, there is nothing to sweep")

    def right(setting: PGD) -> Tensor:
        moved = setting(model, x, y, generator=case.generator, mask=case.mask)
        return votes(model, moved, draws).argmax(dim=1) == y

    kept = right(attack)
    used = float(kept.double().mean())
    started = replace(attack, random_start=True)
    others = {f"{RESTARTS} restarts": torch.stack([right(started) for _ in range(RESTARTS)]).all(0)}
    size = attack.epsilon
    for step in sorted({size / 10, size / 4, size / 2, 2.5 * size / int(attack.steps)}):
        others[f"step {step:g}"] = right(replace(attack, step=step))
    found = {name: float(each.double().mean()) for name, each in others.items()}
    best = min(found, key=lambda name: found[name])
    gain = used - found[best]
    apart = int((kept != others[best]).sum())
    chance = max(1.0, 2.0 * math.sqrt(apart)) if draws > 1 else 1.0
    weak = gain > POINT and gain > chance / len(x) + 1e-9
    told = (
        f"Accuracy {percent(used)} with the settings used (step {attack.step:g}), "
        f"{percent(found[best])} with the strongest of {len(found)} others ({best})."
    )
    evidence: dict[str, Any] = {"used": used, "best": best, "found": found}
    severity: Severity = "warning" if weak else "passed"
    return severity, told, evidence
