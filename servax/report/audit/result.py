"""What an audit hands over to be reported: predictions, findings, measures, sounds, the card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from servax.errors import SettingError, ShapeError
from servax.evaluation.checks import Finding
from servax.evaluation.records import Records

__all__ = ["KINDS", "MEASURES", "AuditResult", "Clip", "Kind", "Measure"]

Kind = Literal["clean", "attacked", "purified"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which they are played."""
Measure = Literal["uar", "lower", "lost"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What a demand is of: UAR in the worst case, the lower end of its interval, the points lost."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A sound to listen to, and what a system takes it for."""

    title: str
    """A few words."""
    utterance: str
    """Name of the recording; the clips of one stand together."""
    label: str
    """True class."""
    system: str
    """Name of the system that was asked."""
    prediction: str
    """What it takes the sound for."""
    kind: Kind
    """`clean`, `attacked` or `purified`."""
    sample_rate: int
    """In hertz."""
    waveform: npt.NDArray[np.float32]
    """Samples (T,), full scale ±1; the page holds them as 16 bit, and clips beyond."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError.choice("kind", self.kind, KINDS)
        if self.waveform.ndim != 1 or not self.waveform.size:
            raise ShapeError("waveform", self.waveform.shape, "(T,), at least one sample")
        if not np.isfinite(self.waveform).all():
            raise SettingError("waveform", "NaN or infinite somewhere", "finite samples")
        if self.sample_rate < 1:
            raise SettingError("sample_rate", self.sample_rate, "a whole number of hertz >= 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """Everything that the report of an audit is made of."""

    records: Records
    """Predictions; the defences are the audited systems, `undefended` first, strength a radius."""
    findings: tuple[Finding, ...]
    """Of the sanity checks."""
    measures: pd.DataFrame
    """A row per defence, attack, knowledge and strength; of these columns those that are known:
    `gradients_per_utterance`, `queries_per_utterance`, `attacked`, `moved`, `median_distance`,
    `median_snr_db`, `lowest_snr_db`, `seconds`; of attacks that lead to a chosen class `towards`
    and `success_rate`, the share of the attacked that reach it."""
    realisability: pd.DataFrame | None
    """A row per defence, attack and knowledge: `uar_logmel`, `uar_sound`, `uar_clean_round_trip`
    (shares), `median_snr_db`, `median_log_mel_error_db`; None where nothing became sound."""
    clips: tuple[Clip, ...]
    """Sounds to listen to."""
    card: Mapping[str, Any]
    """The evaluation card, a JSON object; `radius in dB` is the audited radius in dB."""
    radius: float
    """The audited ε, in units of the input."""
    fail_under: float | None
    """Percent of `judged_by` that every defence has to keep, or may lose; None asks nothing."""
    judged_by: Measure = "uar"
    """What `fail_under` is of."""
    detection: pd.DataFrame | None = None
    """A row per defence, attack, knowledge and score of suspicion (`residual`, `l1`): `area` under
    the ROC curve, `detected_at_5_percent` (shares; none where no utterance moved), `utterances`
    that moved; None where no defence makes a detector."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise SettingError("radius", self.radius, "a finite number above 0")
        if self.fail_under is not None and not 0 <= self.fail_under <= 100:
            raise SettingError("fail_under", self.fail_under, "a UAR in percent, from 0 to 100")
        if self.judged_by not in MEASURES:
            raise SettingError.choice("judged_by", self.judged_by, MEASURES)

    @property
    def on_sound(self) -> bool:
        """Whether the model takes sound; of one that takes log-Mel, `radius` is of the log-Mel."""
        model = self.card.get("model")
        return isinstance(model, Mapping) and model.get("inputs") == "waveform"

    def decibels(self, strength: float) -> float:
        """Return a strength in dB of the log-Mel, ``nan`` where that has no meaning."""
        known = self.card.get("radius in dB")
        if not isinstance(known, int | float):
            return float("nan")
        return strength / self.radius * float(known)
