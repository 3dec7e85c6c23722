"""What an audit found, what each system keeps of it, and whether that is what was asked for.

An utterance counts as kept only where every attack of the group fails. An input that moved less
than the radius lies within it too, so weaker attacks of a sweep belong to the group of the audited
radius.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from servax.errors import ServaxError, SettingError
from servax.evaluation.checks import Finding
from servax.evaluation.records import KNOWLEDGE, UNDEFENDED, Records
from servax.evaluation.statistics import no_interval
from servax.report.predictions import CLEAN, Condition, Predictions, Standing, collect
from servax.report.rendering import Clip
from servax.report.tables import percent_sign

Measure = Literal["uar", "lower", "lost"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What a demand is of: UAR in the worst case, the lower end of its interval, the points lost."""
ATTACKERS = KNOWLEDGE[1:]
"""From the one who knows least of the defence to the one who knows all."""
UNKNOWING = ("oblivious", "transfer")
"""Attackers who do not know that there is a defence."""
CONTROL = "noise"
"""Random noise of the size of an attack: it counts where it fools, but it tests no defence."""
SLACK = 1e-6
"""Relative: a radius stays one number, however it was computed."""
_ROUNDING = 1e-11  # of a share that was asked for in percent


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """Everything that the report of an audit is made of, and the questions that it asks."""

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
    answers: pd.DataFrame | None = None
    """A row per random system, attack (`none`, and `worst-case` of all) and knowledge, each asked
    as often as `answers` says: `right_once`, `right_in_mean`, `right_in_all` (shares); None where
    nothing is random."""

    speech: pd.DataFrame | None = None
    """A row per defence, attack and knowledge: `utterances` and, of clean or attacked speech that
    passed the defence beside the clean one that went in, the median of each measure of
    `servax.evaluation.distortion.MEASURES`, or of log-Mels `log_mel_distance_db`; None where none
    was taken."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise SettingError("radius", self.radius, "a finite number above 0")
        if self.fail_under is not None and not 0 <= self.fail_under <= 100:
            raise SettingError("fail_under", self.fail_under, "a UAR in percent, from 0 to 100")
        if self.judged_by not in MEASURES:
            raise SettingError.choice("judged_by", self.judged_by, MEASURES)

    @cached_property
    def found(self) -> Predictions:
        """The predictions side by side.

        Raises:
            ServaxError: They cannot be compared (`servax.report.collect`), a system has no clean
                predictions, or a defence has oblivious or transfer results and no others.
        """
        records = self.records
        found = collect(records.frame, records.provenance, adaptive_elsewhere=True)
        for system in self.systems:
            if (system, CLEAN) not in found.cells:
                raise ServaxError(
                    f"records have no predictions of {system} for {CLEAN.attack!r}; expected each "
                    "system on clean input and under the attacks that are compared."
                )
            told = {c.knowledge for s, c in found.cells if s == system and c.attack != CONTROL}
            known = [name for name in UNKNOWING if name in told]
            if system != UNDEFENDED and known and told.issubset((CLEAN.knowledge, *UNKNOWING)):
                raise ServaxError(
                    f"{system} has {' and '.join(known)} results and no adaptive, BPDA or "
                    "black-box ones beside them; attack it as one who knows it does, too: results "
                    "of attackers who do not know a defence are never printed alone."
                )
        return found

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """`undefended`, then the defences as they were given."""
        return tuple(dict.fromkeys((UNDEFENDED, *self.records.frame["defence"])))

    @property
    def defences(self) -> tuple[str, ...]:
        """All systems but the undefended model."""
        return self.systems[1:]

    @property
    def speakers(self) -> int:
        """How many speakers are heard."""
        return int(np.unique(self.found.speakers).size)

    @property
    def no_interval(self) -> str:
        """Why there are no intervals, a sentence; empty where there are."""
        return no_interval(self.speakers)

    @property
    def chance(self) -> float:
        """UAR of a guess, 1 / K."""
        return 1.0 / len(self.found.classes)

    @property
    def on_sound(self) -> bool:
        """Whether the model takes sound; of one that takes log-Mel, `radius` is of the log-Mel."""
        model = self.card.get("model")
        return isinstance(model, Mapping) and model.get("inputs") == "waveform"

    @property
    def by_ratio(self) -> bool:
        """Whether strengths are shares of an utterance's norm, told as signal-to-noise ratios."""
        return self.card.get("norm") == "snr"

    def decibels(self, strength: float) -> float:
        """Return a strength in dB of the log-Mel, ``nan`` where that has no meaning."""
        known = self.card.get("radius in dB")
        return strength / self.radius * float(known) if isinstance(known, int | float) else math.nan

    def apart(self, condition: Condition) -> bool:
        """Return whether an attack has a ball of its own, on the sound before the front-end.

        Its strength compares with no radius, so it stands in the tables and in no worst case.
        """
        return condition.settings[-1:] == ("waveform",) and not self.on_sound

    def conditions(
        self, system: str, knowledge: Collection[str] = ATTACKERS
    ) -> tuple[Condition, ...]:
        """Return the attacks on a system by these attackers, those who know least first."""
        found = [c for name, c in self.found.cells if name == system and c.knowledge in knowledge]
        return tuple(sorted(found, key=lambda c: (ATTACKERS.index(c.knowledge), c)))

    @property
    def attacked(self) -> tuple[Condition, ...]:
        """All attacks on all systems."""
        return tuple(c for system in self.systems for c in self.conditions(system))

    def within(
        self, system: str, knowledge: Collection[str] = ATTACKERS, *, radius: float | None = None
    ) -> tuple[Condition, ...]:
        """Return those that stay inside a radius, by default the audited one."""
        most = (self.radius if radius is None else radius) * (1 + SLACK)
        tried = self.conditions(system, knowledge)
        return tuple(c for c in tried if c.strength <= most and not self.apart(c))

    def clean(self, system: str) -> Standing:
        """Return what a system gets right without any attack."""
        return self.standing(system, [CLEAN])

    def worst(self, system: str, knowledge: Collection[str] = ATTACKERS) -> Standing | None:
        """Return what is left of a system when these attackers do all that they can.

        None where none of them tried.
        """
        found = self.within(system, knowledge)
        return self.standing(system, found) if found else None

    def standing(self, system: str, conditions: Sequence[Condition]) -> Standing:
        """Return what a system keeps when each utterance meets the worst of `conditions`."""
        return self.found.standing(system, conditions)

    @property
    def judged(self) -> tuple[str, ...]:
        """The systems that `fail_under` speaks of: the defences, or else the bare model."""
        return self.defences or (UNDEFENDED,)

    @property
    def wanted(self) -> str:
        """What is asked of each judged system: "to keep at least 40.0 % UAR in …"."""
        asked = self.fail_under or 0.0
        if self.judged_by == "lost":
            return f"to lose at most {asked:.1f} points of its clean UAR in the worst case"
        end = " at the lower end of its 95 % interval" if self.judged_by == "lower" else ""
        return f"to keep at least {percent_sign(asked)} UAR in the worst case{end}"

    @property
    def below(self) -> dict[str, str]:
        """The judged systems that keep less than `fail_under` asks, and what they keep."""
        if self.fail_under is None:
            return {}
        told = {name: self._short(name, self.fail_under / 100) for name in self.judged}
        return {name: kept for name, kept in told.items() if kept}

    def _short(self, name: str, asked: float) -> str:
        """Return what a system keeps where that is too little, else nothing."""
        clean = self.clean(name)
        # What nobody attacked keeps what it has on clean input: nothing shows less.
        left = self.worst(name) or clean
        if self.judged_by == "lost":
            lost = clean.uar - left.uar
            return f"loses {100 * lost:.1f} points" if lost > asked + _ROUNDING else ""
        kept = left.low if self.judged_by == "lower" else left.uar
        if math.isnan(kept):
            return "has no interval"
        return f"keeps {percent_sign(100 * kept)}" if kept < asked - _ROUNDING else ""

    @property
    def errors(self) -> int:
        """How many checks found an error."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def black_box_only(self) -> tuple[str, ...]:
        """The sentence that no white-box attack was possible, if none was."""
        told = (each.statement for each in self.findings if each.check == "white-box")
        return tuple(sentence for sentence in told if sentence.startswith("Black box only"))[:1]

    @property
    def untrusted(self) -> list[str]:
        """Why the figures cannot be trusted, or where one is asked for, cannot pass."""
        reasons = [f"checks found {self.errors} error{'s' * (self.errors > 1)}"]
        reasons = reasons if self.errors else []
        if self.fail_under is not None and self.black_box_only:
            reasons.append("no white-box attack was possible")
        return reasons

    @property
    def passes(self) -> bool:
        """Whether the figures can be trusted and every judged system keeps what is asked.

        It passes when no check found an error, white-box attacks were possible, and every defence
        (the bare model, where there is none) keeps what `fail_under` asks in the worst case over
        all attacks within the radius.
        """
        found = self.found  # refused before anything is said of it
        return found is not None and not self.untrusted and not self.below


def demand_of(text: str) -> tuple[float, Measure]:
    """Return number and measure of an option: ``40``, ``lower:40`` or ``lost:10``.

    Raises:
        SettingError: The measure is unknown, or the number is no percentage.
    """
    measure, colon, number = text.rpartition(":")
    measure = measure if colon else "uar"
    try:
        percent = float(number)
    except ValueError:
        percent = math.nan
    if measure not in MEASURES or not 0 <= percent <= 100:
        raise SettingError(
            "fail_under",
            percent if measure == "uar" and math.isfinite(percent) else text,
            "a UAR in percent, from 0 to 100 (40), lower:40 for the lower end of its interval, or "
            "lost:10 for the points of the clean UAR that may be lost",
        )
    return percent, measure
