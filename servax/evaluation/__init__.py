"""What is true afterwards: systems, metrics, intervals over speakers, and the table of records."""

from servax.evaluation import metrics, records
from servax.evaluation.metrics import (
    detected_at,
    protection_efficacy,
    recovery_rate,
    roc_area,
    uar,
)
from servax.evaluation.statistics import SpeakerDraws, interval_of, over_folds

__all__ = [
    "SpeakerDraws",
    "detected_at",
    "interval_of",
    "metrics",
    "over_folds",
    "protection_efficacy",
    "records",
    "recovery_rate",
    "roc_area",
    "uar",
]
