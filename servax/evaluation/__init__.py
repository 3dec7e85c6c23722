"""What is true afterwards: metrics, intervals over speakers, and the table they come from."""

from __future__ import annotations

from servax.evaluation import metrics, records
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
    "Interval",
    "MeanSd",
    "Records",
    "confusion",
    "harm_rate",
    "metrics",
    "over_folds",
    "protection_efficacy",
    "recalls",
    "records",
    "recovery_rate",
    "speaker_interval",
    "uar",
    "weighted_accuracy",
]
