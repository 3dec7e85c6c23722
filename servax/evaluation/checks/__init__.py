"""Sanity checks: can the figures be trusted? Each gives findings with their evidence."""

from servax.evaluation.checks.finding import SEVERITIES, Finding, Severity, carried_out
from servax.evaluation.checks.on_attacks import large_epsilon, restarts_and_steps
from servax.evaluation.checks.on_gradients import gradient_is_true, zero_gradients
from servax.evaluation.checks.on_neighbours import batch_independence, padding
from servax.evaluation.checks.on_outputs import (
    Repeats,
    deterministic,
    evaluation_mode,
    is_deterministic,
    outputs_are_logits,
    repeats,
)
from servax.evaluation.checks.on_reach import clip_keeps_clean, inside_ball
from servax.evaluation.checks.on_records import (
    clean_score,
    knowledge_complete,
    white_box_at_least_black_box,
    worst_case_below_minimum,
)
from servax.evaluation.checks.on_strength import (
    attack_breaks_undefended,
    noise_weaker,
    pgd_at_least_fgsm,
    twice_the_steps,
    uar_falls_with_strength,
)
from servax.evaluation.checks.planted import Planting, planted

__all__ = [
    "SEVERITIES",
    "Finding",
    "Planting",
    "Repeats",
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
    "is_deterministic",
    "knowledge_complete",
    "large_epsilon",
    "noise_weaker",
    "outputs_are_logits",
    "padding",
    "pgd_at_least_fgsm",
    "planted",
    "repeats",
    "restarts_and_steps",
    "twice_the_steps",
    "uar_falls_with_strength",
    "white_box_at_least_black_box",
    "worst_case_below_minimum",
    "zero_gradients",
]
