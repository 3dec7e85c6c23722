"""All findings of an audit: what the probing checks found, and what the records say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from servax.audit.scene import Scene
from servax.audit.tiers import TOWARDS
from servax.evaluation import checks
from servax.evaluation.checks import Finding
from servax.evaluation.protocol import UNDEFENDED


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
    radius = scene.settings.budget.radius
    # The attack on the sound has a ball of another kind: its strength compares with no radius.
    # One that leads to a chosen class leaves that class alone, and need not do as much as noise.
    same = frame[~frame["attack"].str.startswith(("pgd-waveform", TOWARDS))]
    if "adaptive" in scene.settings.knowledge and scene.subject.gradients:
        yield from checks.pgd_at_least_fgsm(same, pairs=[(radius, radius)])
        yield from checks.twice_the_steps(same)
        # Below the radius the only attacker with gradients may be FGSM, which proves nothing.
        full = same[np.isclose(same["strength"], radius) | (same["attack"] == "none")]
        yield from checks.white_box_at_least_black_box(full)
        yield from checks.noise_weaker(same)
    yield from checks.uar_falls_with_strength(same)
    if scene.defences and scene.subject.gradients:
        yield from checks.attack_breaks_undefended(same)
    draws = measures.groupby("defence")["draws"].max()
    random = [str(name) for name, most in draws.items() if most > 1]
    for finding in checks.knowledge_complete(
        frame[frame["defence"] != UNDEFENDED] if scene.defences else frame,
        random_defences=random,
        eot_draws={name: int(draws[name]) for name in random},
    ):
        # A model without gradients leaves its auditor no choice, and the reader must know.
        forced = finding.severity == "error" and not scene.subject.gradients
        yield replace(finding, severity="warning") if forced else finding
    yield from checks.worst_case_below_minimum(same)
    for told in probed:
        yield Finding(**told)
