"""What each system keeps, by what the attacker knows, and whether that is what was asked for.

An utterance counts as kept only where every attack of the group fails (`servax.evaluation.
worst_case`). An input that moved less than the radius lies within it too, so weaker attacks of a
sweep belong to the group of the audited radius.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from servax.errors import ServaxError, SettingError
from servax.evaluation.metrics import uar
from servax.evaluation.records import KNOWLEDGE
from servax.evaluation.statistics import interval_of, no_interval
from servax.report.audit.result import MEASURES, AuditResult, Measure
from servax.report.predictions import CLEAN, UNDEFENDED, Condition, Predictions, collect
from servax.report.tables import percent_sign

__all__ = [
    "ATTACKERS",
    "CONTROL",
    "KNOWING",
    "UNKNOWING",
    "Scores",
    "Standing",
    "below",
    "black_box_only",
    "judged",
    "parsed",
    "passes",
    "scores",
    "untrusted",
    "wanted",
]

ATTACKERS = KNOWLEDGE[1:]
"""From the one who knows least of the defence to the one who knows all."""
UNKNOWING = ("oblivious", "transfer")
"""Attackers who do not know that there is a defence."""
KNOWING = ("bpda", "adaptive")
"""Attackers who know the defence."""
CONTROL = "noise"
"""Random noise of the size of an attack: it counts where it fools, but it tests no defence."""

_SLACK = 1e-6  # relative: a radius stays one number, however it was computed
_ROUNDING = 1e-11  # of a share that was asked for in percent


@dataclass(frozen=True)
class Standing:
    """What a system keeps under some attacks."""

    uar: float
    """UAR, a share."""
    low: float
    """Lower end of the 95 % interval over speakers; ``nan`` below five speakers."""
    high: float
    """Upper end."""
    attacks: tuple[str, ...] = ()
    """Names of the attacks."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The predictions of an audit side by side, with the questions that a report asks."""

    result: AuditResult
    found: Predictions

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """`undefended`, then the defences as they were given."""
        return tuple(dict.fromkeys((UNDEFENDED, *self.result.records.frame["defence"])))

    @property
    def defences(self) -> tuple[str, ...]:
        """All systems but the undefended model."""
        return self.systems[1:]

    @cached_property
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

    def apart(self, condition: Condition) -> bool:
        """Return whether an attack has a ball of its own, on the sound before the front-end.

        Its strength compares with no radius, so it stands in the tables and in no worst case.
        """
        return condition.settings[-1:] == ("waveform",) and not self.result.on_sound

    def conditions(
        self, system: str, knowledge: Collection[str] = ATTACKERS
    ) -> tuple[Condition, ...]:
        """Return the attacks on a system by these attackers, those who know least first."""
        found = [c for name, c in self.found.cells if name == system and c.knowledge in knowledge]
        return tuple(sorted(found, key=lambda c: (ATTACKERS.index(c.knowledge), c)))

    def within(
        self, system: str, knowledge: Collection[str] = ATTACKERS, *, radius: float | None = None
    ) -> tuple[Condition, ...]:
        """Return those that stay inside a radius, by default the audited one."""
        most = (self.result.radius if radius is None else radius) * (1 + _SLACK)
        return tuple(
            c
            for c in self.conditions(system, knowledge)
            if c.strength <= most and not self.apart(c)
        )

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
        """Return what a system keeps when each utterance meets the worst of `conditions`.

        Raises:
            ServaxError: A system was never asked for clean input.
        """
        labels = self.found.labels
        kept = np.ones(labels.size, dtype=bool)
        for condition in conditions:
            if (system, condition) not in self.found.cells:
                raise ServaxError(
                    f"records have no predictions of {system} for {condition.attack!r}; expected "
                    "each system on clean input and under the attacks that are compared."
                )
            kept &= self.found.cells[system, condition] == labels
        names = tuple(dict.fromkeys(c.attack for c in conditions if c != CLEAN))
        predictions = np.where(kept, labels, -1)
        low = high = float("nan")
        if self.found.draws is not None:
            interval = interval_of(self.found.draws.uar(labels, predictions))
            low, high = interval.low, interval.high
        return Standing(uar(labels, predictions), low, high, names)


def scores(result: AuditResult) -> Scores:
    """Return the predictions of an audit side by side.

    Raises:
        ServaxError: The records cannot be compared (`servax.report.collect`), a system has no
            clean predictions, or a defence has oblivious or transfer results and no others.
    """
    records = result.records
    found = Scores(result, collect(records.frame, records.provenance, adaptive_elsewhere=True))
    for system in found.systems:
        found.clean(system)
    for system in found.defences:
        names = {c.knowledge for c in found.conditions(system) if c.attack != CONTROL}
        known = [name for name in UNKNOWING if name in names]
        if known and names.issubset(UNKNOWING):
            raise ServaxError(
                f"{system} has {' and '.join(known)} results and no adaptive, BPDA or black-box "
                "ones beside them; attack it as one who knows it does, too: results of attackers "
                "who do not know a defence are never printed alone."
            )
    return found


def parsed(text: str) -> tuple[float, Measure]:
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


def judged(found: Scores) -> tuple[str, ...]:
    """Return the systems that `fail_under` speaks of: the defences, or else the bare model."""
    return found.defences or (UNDEFENDED,)


def wanted(result: AuditResult) -> str:
    """Return what is asked of each judged system: "to keep at least 40.0 % UAR in …"."""
    asked = result.fail_under or 0.0
    if result.judged_by == "lost":
        return f"to lose at most {asked:.1f} points of its clean UAR in the worst case"
    end = " at the lower end of its 95 % interval" if result.judged_by == "lower" else ""
    return f"to keep at least {percent_sign(asked)} UAR in the worst case{end}"


def below(found: Scores) -> dict[str, str]:
    """Return the judged systems that keep less than `fail_under` asks, and what they keep."""
    if found.result.fail_under is None:
        return {}
    told = {name: _short(found, name, found.result.fail_under / 100) for name in judged(found)}
    return {name: kept for name, kept in told.items() if kept}


def _short(found: Scores, name: str, asked: float) -> str:
    """Return what a system keeps where that is too little, else nothing."""
    clean, measure = found.clean(name), found.result.judged_by
    # What nobody attacked keeps what it has on clean input: nothing shows less.
    left = found.worst(name) or clean
    if measure == "lost":
        lost = clean.uar - left.uar
        return f"loses {100 * lost:.1f} points" if lost > asked + _ROUNDING else ""
    kept = left.low if measure == "lower" else left.uar
    if math.isnan(kept):
        return "has no interval"
    return f"keeps {percent_sign(100 * kept)}" if kept < asked - _ROUNDING else ""


def black_box_only(result: AuditResult) -> str | None:
    """Return the sentence that no white-box attack was possible; None where one was."""
    for finding in result.findings:
        if finding.check == "white-box" and finding.statement.startswith("Black box only"):
            return finding.statement
    return None


def untrusted(result: AuditResult) -> list[str]:
    """Return why the figures cannot be trusted, or where one is asked for, cannot pass."""
    errors = sum(finding.severity == "error" for finding in result.findings)
    reasons = [f"checks found {errors} error{'s' * (errors > 1)}"] if errors else []
    if result.fail_under is not None and black_box_only(result):
        reasons.append("no white-box attack was possible")
    return reasons


def passes(found: Scores) -> bool:
    """Return whether the figures can be trusted and every judged system keeps what is asked.

    It passes when no check found an error, white-box attacks were possible, and every defence (the
    bare model, where there is none) keeps what `fail_under` asks in the worst case over all attacks
    within the radius.
    """
    return not untrusted(found.result) and not below(found)
