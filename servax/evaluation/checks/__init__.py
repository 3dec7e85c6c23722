"""Sanity checks: can the figures be trusted? Each gives findings with their evidence."""

from __future__ import annotations

from servax.evaluation.checks.declared import (
    SEVERITIES,
    Case,
    Check,
    Finding,
    RecordCheck,
    Severity,
    carried_out,
)
from servax.evaluation.checks.of_answers import (
    batch_independence,
    clip_keeps_clean,
    deterministic,
    evaluation_mode,
    outputs_are_logits,
    padding,
)
from servax.evaluation.checks.of_attacks import inside_ball, large_epsilon, restarts_and_steps
from servax.evaluation.checks.of_gradients import gradient_is_true, white_box, zero_gradients
from servax.evaluation.checks.of_records import (
    attack_breaks_undefended,
    clean_score,
    knowledge_complete,
    noise_weaker,
    pgd_at_least_fgsm,
    twice_the_steps,
    uar_falls_with_strength,
    white_box_at_least_black_box,
    worst_case_below_minimum,
)
from servax.evaluation.checks.planted import planted

MODEL_CHECKS: tuple[Check, ...] = (
    evaluation_mode,
    outputs_are_logits,
    deterministic,
    batch_independence,
    padding,
    clip_keeps_clean,
    zero_gradients,
    gradient_is_true,
    large_epsilon,
    inside_ball,
    restarts_and_steps,
    planted,
)
"""Checks that need the model itself, in their order."""
RECORD_CHECKS: tuple[RecordCheck, ...] = (
    clean_score,
    pgd_at_least_fgsm,
    twice_the_steps,
    white_box_at_least_black_box,
    noise_weaker,
    uar_falls_with_strength,
    attack_breaks_undefended,
    knowledge_complete,
    worst_case_below_minimum,
)
"""Checks of records alone, in their order."""

__all__ = [
    "MODEL_CHECKS",
    "RECORD_CHECKS",
    "SEVERITIES",
    "Case",
    "Check",
    "Finding",
    "RecordCheck",
    "Severity",
    "attack_breaks_undefended",
    "batch_independence",
    "carried_out",
    "clean_score",
    "clip_keeps_clean",
    "deterministic",
    "evaluation_mode",
    "gradient_is_true",
    "inside_ball",
    "knowledge_complete",
    "large_epsilon",
    "noise_weaker",
    "outputs_are_logits",
    "padding",
    "pgd_at_least_fgsm",
    "planted",
    "restarts_and_steps",
    "twice_the_steps",
    "uar_falls_with_strength",
    "white_box",
    "white_box_at_least_black_box",
    "worst_case_below_minimum",
    "zero_gradients",
]
