"""What the words of an audit mean."""

from __future__ import annotations

from servax.evaluation.statistics import no_interval
from servax.report.audit.result import ANOTHER_BALL, AuditResult
from servax.report.audit.scores import ATTACKERS, CONTROL, Scores
from servax.report.audit.sentences import size
from servax.report.audit.tables import HEADINGS
from servax.report.resampling import RESAMPLES, SEED

__all__ = ["definitions", "terms"]

MEANING = {
    "oblivious": "takes gradients of the bare model and does not know that there is a defence",
    "transfer": "takes gradients of a surrogate, a model with weights of its own, and knows "
    "nothing else",
    "black_box": "asks the whole system for its answers, scores or decisions, and has no gradients",
    "bpda": "knows the whole system, and lets gradients pass the defence unchanged (backward pass "
    "differentiable approximation, Athalye et al. 2018)",
    "adaptive": "knows the whole system and takes exact gradients through the defence, averaged "
    "over draws where it is random",
}


def terms(result: AuditResult, found: Scores) -> list[str]:
    """Return what the words of the verdict mean, a sentence or two each."""
    conditions = [c for system in found.systems for c in found.conditions(system)]
    tried = {c.knowledge for c in conditions}
    return [
        "UAR, unweighted average recall, is the mean of the recalls of the classes (the share of "
        "a class that is recognised), in percent. "
        f"Chance is 1/K: {100 * found.chance:.1f} % for {len(found.outcomes.classes)} classes.",
        *(_meaning(knowledge) for knowledge in ATTACKERS if knowledge in tried),
        "Worst case: an utterance counts as kept only where every attack of the group fails, "
        "since an attacker picks the attack after seeing the utterance. It is no higher than the "
        "UAR of any single attack, and it is the number to quote.",
        f"The audited size is {size(result)}. What moved less counts too: it lies within.",
    ]


def definitions(found: Scores) -> list[str]:
    """Return what the other words and columns mean, one sentence or two each."""
    names = {c.attack for system in found.systems for c in found.conditions(system)}
    few = no_interval(found.speakers)
    intervals = (
        f"Intervals are 95 % percentile bootstraps over speakers ({RESAMPLES} draws, seed {SEED}): "
        "whole speakers are drawn."
    )
    return [*_special(names), f"{few or intervals} A dash means not measured or not defined."]


def _meaning(knowledge: str) -> str:
    heading = HEADINGS[knowledge]
    return f"{heading[0].upper()}{heading[1:]}: the attacker {MEANING[knowledge]}."


def _special(names: set[str]) -> list[str]:
    told = []
    if any(name.startswith(ANOTHER_BALL) for name in names):
        told.append(
            "An attack on the sound before the front-end has a budget of its own, so it stands in "
            "the table of attacks and in no worst case."
        )
    if CONTROL in names:
        told.append("Noise is random, of the same size: no attack, but what it fools is fooled.")
    return told
