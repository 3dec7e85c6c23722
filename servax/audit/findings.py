"""All findings of an audit: what the probing checks found, and what the records say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from servax.audit.scene import Scene
from servax.audit.tiers import TOWARDS
from servax.evaluation import checks
from servax.evaluation.checks import Finding, Severity
from servax.evaluation.protocol import UNDEFENDED
from servax.evaluation.systems import System

EVERY_SYSTEM = "all systems"
"""Subject of a check of the records that could not be carried out."""
NO_TORCH = "audit the torch model that it was made of"
"""What to do about a model without gradients that is not made of torch."""


def findings(
    scene: Scene, frame: pd.DataFrame, probed: list[dict[str, Any]], measures: pd.DataFrame
) -> Iterator[Finding]:
    """Yield the findings, the records' first.

    Args:
        scene: Systems, utterances, settings.
        frame: The records of the audit.
        probed: Findings of the probing checks, as JSON.
        measures: One row per threat and system, with the draws of each gradient.
    """
    for system in scene.systems:
        yield white_box(scene, system)
    for name, run in _on_records(scene, frame, measures).items():
        yield from checks.carried_out(name, EVERY_SYSTEM, run)
    for told in probed:
        yield Finding(**told)


def white_box(scene: Scene, system: System) -> Finding:
    """Say whether attackers went through a system by its gradients.

    `error`: none could, so that all figures are those of attackers who only ask: the way of the
    gradient is cut in a model of torch, or there is none, and the audit was not asked for black-box
    attacks alone. `warning`: there is none, and it was; or gradients are there and were not asked
    for. `note`: the identity stood for a step without gradient (BPDA). `passed`: they did.
    """
    severity, told = _through(scene, system)
    evidence = {"gradients": system.gradients, "exact": system.exact, "reason": system.shut}
    return Finding("white-box", system.name, severity, told, evidence)


def _through(scene: Scene, system: System) -> tuple[Severity, str]:
    name, known = system.name, set(scene.settings.knowledge)
    if system.shut:
        to_do = _remedy(scene, system)
        wanted = bool({"adaptive", "bpda"} & known) or to_do != NO_TORCH
        if wanted and to_do == NO_TORCH:
            to_do += ", or ask for --knowledge black_box alone to say that it is known"
        return "error" if wanted else "warning", (
            f"Black box only: no white-box attack was possible on {name}, since {system.shut}; "
            f"{to_do}."
        )
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


def _remedy(scene: Scene, system: System) -> str:
    """Return what to do about a system without gradients: where torch has some, let them pass."""
    in_front = system.front is not None and scene.subject.gradients
    if in_front:
        return (
            "compute its step in torch, or give the defence the attribute knowledge = 'bpda', so "
            "that the identity stands for its gradient"
        )
    # Behind a defence it is the bare model that has none.
    model = system.model if system.front is None else scene.subject.model
    if any(weight.is_floating_point() for weight in model.parameters()):
        return (
            "compute the step that cuts the gradient in torch, or name it in the model's attribute "
            "bpda where it keeps the shape of its input"
        )
    return NO_TORCH


def _on_records(
    scene: Scene, frame: pd.DataFrame, measures: pd.DataFrame
) -> dict[str, Callable[[], tuple[Finding, ...]]]:
    """Return the checks of the records that this audit allows, by name."""
    radius, known = scene.settings.budget.radius, scene.settings.knowledge
    # The attack on the sound has a ball of another kind: its strength compares with no radius.
    # One that leads to a chosen class leaves that class alone, and need not do as much as noise.
    same = frame[~frame["attack"].str.startswith(("pgd-waveform", TOWARDS))]
    # Below the radius the only attacker with gradients may be FGSM, which proves nothing.
    full = same[np.isclose(same["strength"], radius) | (same["attack"] == "none")]
    found: dict[str, Callable[[], tuple[Finding, ...]]] = {
        "clean-score": lambda: checks.clean_score(frame)
    }
    if "adaptive" in known and any(system.gradients for system in scene.systems):
        found |= {
            "pgd-at-least-fgsm": lambda: checks.pgd_at_least_fgsm(same, pairs=[(radius, radius)]),
            "twice-the-steps": lambda: checks.twice_the_steps(same),
            "white-box-at-least-black-box": lambda: checks.white_box_at_least_black_box(full),
            "noise-weaker": lambda: checks.noise_weaker(same),
        }
    found["uar-falls-with-strength"] = lambda: checks.uar_falls_with_strength(same)
    if scene.defences and scene.subject.gradients:
        found["attack-breaks-undefended"] = lambda: checks.attack_breaks_undefended(same)
    found["knowledge-complete"] = lambda: _complete(scene, frame, measures)
    found["worst-case-below-minimum"] = lambda: checks.worst_case_below_minimum(same)
    return found


def _complete(scene: Scene, frame: pd.DataFrame, measures: pd.DataFrame) -> tuple[Finding, ...]:
    draws = measures.groupby("defence")["draws"].max()
    random = [str(name) for name, most in draws.items() if most > 1]
    known = {system.name for system in scene.systems if system.gradients}
    if "adaptive" not in scene.settings.knowledge:
        known.discard(UNDEFENDED)
    found = checks.knowledge_complete(
        frame, random_defences=random, eot_draws={name: int(draws[name]) for name in random}
    )
    # Where nothing else was left, or it was asked for, the check of white-box attacks says it.
    return tuple(
        replace(each, severity="warning")
        if each.severity == "error" and each.subject not in known
        else each
        for each in found
    )
