"""What each system keeps: UAR by attack, by what the attacker knows, and in the worst case.

An utterance counts as kept only where every attack of the group fails (`servax.evaluation.
worst_case`). An input that moved less than the radius lies within it too, so weaker attacks of a
sweep belong to the group of the audited radius.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servax.errors import ServaxError
from servax.evaluation.metrics import uar
from servax.report.audit.result import ANOTHER_BALL, AuditResult
from servax.report.outcomes import CLEAN, UNDEFENDED, Condition, Outcomes, align
from servax.report.resampling import SpeakerDraws, interval_of

__all__ = ["KNOWING", "UNKNOWING", "Scores", "Standing", "refuse_oblivious_alone", "scores"]

UNKNOWING = ("oblivious", "transfer")
"""Attackers who do not know that there is a defence."""
KNOWING = ("adaptive", "bpda")
"""Attackers who know the defence."""
ATTACKERS = ("oblivious", "transfer", "black_box", "bpda", "adaptive")
"""From the one who knows least of the defence to the one who knows all."""
CONTROL = "noise"
"""Random noise of the size of an attack: it counts where it fools, but it tests no defence."""

_SLACK = 1e-6  # relative: a radius stays one number, however it was computed


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

    outcomes: Outcomes
    systems: tuple[str, ...]
    """`undefended`, then the defences."""
    radius: float
    draws: SpeakerDraws | None
    """The bootstrap over speakers; None for too few of them."""

    @property
    def defences(self) -> tuple[str, ...]:
        """All systems but the undefended model."""
        return self.systems[1:]

    @property
    def speakers(self) -> int:
        """How many speakers are heard."""
        return int(np.unique(self.outcomes.speakers).size)

    @property
    def chance(self) -> float:
        """UAR of a guess, 1 / K."""
        return 1.0 / len(self.outcomes.classes)

    def conditions(
        self, system: str, knowledge: Collection[str] = ATTACKERS
    ) -> tuple[Condition, ...]:
        """Return the attacks on a system by these attackers, those who know least first."""
        found = [
            c for name, c in self.outcomes.cells if name == system and c.knowledge in knowledge
        ]
        found = [c for c in found if c != CLEAN]
        return tuple(sorted(found, key=lambda c: (ATTACKERS.index(c.knowledge), *c)))

    def within(
        self, system: str, knowledge: Collection[str] = ATTACKERS, *, radius: float | None = None
    ) -> tuple[Condition, ...]:
        """Return those that stay inside a radius, by default the audited one."""
        most = (self.radius if radius is None else radius) * (1 + _SLACK)
        return tuple(
            c
            for c in self.conditions(system, knowledge)
            if c.strength <= most and not c.attack.startswith(ANOTHER_BALL)
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
        labels = self.outcomes.labels
        kept = np.ones(labels.size, dtype=bool)
        for condition in conditions:
            if (system, condition) not in self.outcomes.cells:
                raise ServaxError(
                    f"records have no predictions of {system} for {condition.attack!r}; expected "
                    "each system on clean input and under the attacks that are compared."
                )
            kept &= self.outcomes.cells[system, condition] == labels
        names = tuple(dict.fromkeys(c.attack for c in conditions if c != CLEAN))
        return _standing(labels, kept, self.draws, names)


def _standing(
    labels: NDArray[np.intp],
    kept: NDArray[np.bool_],
    draws: SpeakerDraws | None,
    attacks: tuple[str, ...],
) -> Standing:
    predictions = np.where(kept, labels, -1)
    low = high = float("nan")
    if draws is not None:
        interval = interval_of(draws.uars(labels, predictions[None]))
        low, high = interval.low / 100, interval.high / 100
    return Standing(uar(labels, predictions), low, high, attacks)


def scores(result: AuditResult) -> Scores:
    """Return the predictions of an audit side by side.

    Raises:
        ServaxError: The records cannot be compared (`servax.report.outcomes.align`), a system has
            no clean predictions, or oblivious results stand alone (`refuse_oblivious_alone`).
    """
    frame, told = result.records.frame, result.records.provenance.get("classes", ())
    classes = [str(name) for name in told] if isinstance(told, list | tuple) else []
    outcomes = align(frame, classes=classes)
    defences = [str(name) for name in frame["defence"].unique() if name != UNDEFENDED]
    found = Scores(
        outcomes,
        (UNDEFENDED, *defences),
        result.radius,
        SpeakerDraws.of(outcomes.speakers),
    )
    for system in found.systems:
        found.clean(system)
    refuse_oblivious_alone(found)
    return found


def refuse_oblivious_alone(found: Scores) -> None:
    """Refuse a defence that only attackers who do not know it have tried.

    Raises:
        ServaxError: A defence has oblivious or transfer results and no others beside them.
    """
    for system in found.defences:
        names = {c.knowledge for c in found.conditions(system) if c.attack != CONTROL}
        known = [name for name in UNKNOWING if name in names]
        if known and names.issubset(UNKNOWING):
            raise ServaxError(
                f"{system} has {' and '.join(known)} results and no adaptive, BPDA or black-box "
                "ones beside them; attack it as one who knows it does, too: results of attackers "
                "who do not know a defence are never printed alone."
            )
