"""Sanity checks: can the figures be trusted? Each gives findings with their evidence."""

from servax.evaluation.checks import of_answers, of_attacks, of_gradients, of_records
from servax.evaluation.checks.case import Case
from servax.evaluation.checks.declared import (
    SEVERITIES,
    Check,
    Finding,
    RecordCheck,
    Severity,
    carried_out,
)
from servax.evaluation.checks.of_attacks import attacks_move
from servax.evaluation.checks.of_gradients import white_box
from servax.evaluation.checks.planted import planted

MODEL_CHECKS: tuple[Check, ...] = (
    of_answers.evaluation_mode,
    of_answers.outputs_are_logits,
    of_answers.deterministic,
    of_answers.batch_independence,
    of_answers.padding,
    of_answers.clip_keeps_clean,
    of_gradients.zero_gradients,
    of_gradients.gradient_is_true,
    of_attacks.large_epsilon,
    of_attacks.inside_ball,
    of_attacks.restarts_and_steps,
    planted,
)
"""Checks that need the model itself, in their order."""
RECORD_CHECKS: tuple[RecordCheck, ...] = (
    of_records.clean_score,
    of_records.pgd_at_least_fgsm,
    of_records.twice_the_steps,
    of_records.twice_the_draws,
    of_records.white_box_at_least_black_box,
    of_records.noise_weaker,
    of_records.uar_falls_with_strength,
    of_records.attack_breaks_undefended,
    of_records.knowledge_complete,
    of_records.worst_case_below_minimum,
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
    "attacks_move",
    "carried_out",
    "of_answers",
    "of_attacks",
    "of_gradients",
    "of_records",
    "planted",
    "white_box",
]
