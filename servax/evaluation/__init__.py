"""What is true afterwards: systems, metrics, intervals over speakers, and the table of records."""

from __future__ import annotations

from servax.evaluation import metrics, records
from servax.evaluation.metrics import (
    Flow,
    confusion,
    detected_at,
    flows,
    harm_rate,
    protection_efficacy,
    recall_by_class,
    recovery_rate,
    roc_area,
    uar,
    uar_by_group,
    weighted_accuracy,
)
from servax.evaluation.records import Records
from servax.evaluation.statistics import (
    Comparison,
    Discordance,
    Interval,
    MeanSd,
    SpeakerDraws,
    holm,
    interval_of,
    mcnemar,
    over_folds,
    speaker_permutation,
)

__all__ = [
    "Comparison",
    "Discordance",
    "Flow",
    "Interval",
    "MeanSd",
    "Records",
    "SpeakerDraws",
    "confusion",
    "detected_at",
    "flows",
    "harm_rate",
    "holm",
    "interval_of",
    "mcnemar",
    "metrics",
    "over_folds",
    "protection_efficacy",
    "recall_by_class",
    "records",
    "recovery_rate",
    "roc_area",
    "speaker_permutation",
    "uar",
    "uar_by_group",
    "weighted_accuracy",
]
