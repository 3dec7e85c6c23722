"""What is true afterwards: metrics, intervals over speakers, and the table they come from."""

from __future__ import annotations

from servax.evaluation import metrics, records
from servax.evaluation.breakdown import Flow, flows, recall_by_class, uar_by_group
from servax.evaluation.comparisons import (
    Comparison,
    Discordance,
    holm,
    mcnemar,
    speaker_permutation,
)
from servax.evaluation.intervals import Interval, MeanSd, over_folds, speaker_interval
from servax.evaluation.metrics import (
    confusion,
    harm_rate,
    protection_efficacy,
    recalls,
    recovery_rate,
    uar,
    weighted_accuracy,
)
from servax.evaluation.records import Records

__all__ = [
    "Comparison",
    "Discordance",
    "Flow",
    "Interval",
    "MeanSd",
    "Records",
    "confusion",
    "flows",
    "harm_rate",
    "holm",
    "mcnemar",
    "metrics",
    "over_folds",
    "protection_efficacy",
    "recall_by_class",
    "recalls",
    "records",
    "recovery_rate",
    "speaker_interval",
    "speaker_permutation",
    "uar",
    "uar_by_group",
    "weighted_accuracy",
]
