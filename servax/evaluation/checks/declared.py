"""What a sanity check is: declared once, with what it needs, what it looks at and what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import pandas as pd

from servax.errors import SettingError
from servax.evaluation.checks.case import Case
from servax.evaluation.records import UNDEFENDED, validate
from servax.evaluation.trial import out_of_memory

Severity = Literal["error", "warning", "note", "passed", "not-measured"]
"""`error`: the figures cannot be trusted. `warning`: they flatter, or may. `note`: good to know.

`passed`: as it should be. `not-measured`: what the check needs was not there.
"""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""
UTTERANCE = ["utterance", "fold", "seed"]
"""What makes two rows of one system speak of the same utterance."""
Verdict = tuple[Severity, str, Mapping[str, Any]]
"""How bad it is, one sentence with its numbers, and the numbers as JSON holds them."""
Needs = Literal["nothing", "white-box", "defences"]
"""Of an audit: attackers who know a system with gradients; or defences of such a model."""
Among = Literal["all", "one ball", "one size"]
"""All rows, attacks in the ball of the audit for any wrong class, or those of its size alone."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one system."""

    check: str
    """Name of the check, in kebab case."""
    subject: str
    """Name of the system (defence) that it is about."""
    severity: Severity
    """How bad it is; each check's docstring says when it gives which."""
    statement: str
    """One sentence that says what was found, with its numbers."""
    evidence: Mapping[str, Any]
    """The numbers, as JSON holds them."""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise SettingError.choice("severity", self.severity, SEVERITIES)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return asdict(self)


@dataclass(eq=False)
class _Declared:
    """A check by the function that looks: its name names the check, its docstring tells when."""

    look: Callable[..., Verdict]
    """From what is looked at to a verdict."""
    name: str = field(init=False)
    """In kebab case."""

    def __post_init__(self) -> None:
        self.name = self.look.__name__.replace("_", "-")


@dataclass(eq=False)
class Check(_Declared):
    """A check of a model: called with a case, it gives a finding."""

    gradients: bool = False
    """Whether it needs gradients of the model."""
    part: Callable[[int], int] = int
    """How many utterances it looks at, of so many; all of them by default."""

    def __call__(self, case: Case, **settings: Any) -> Finding:
        """Return what is found."""
        return Finding(self.name, case.system.name, *self.look(case, **settings))


@dataclass(eq=False)
class RecordCheck(_Declared):
    """A check of records alone: called with a table, it gives one finding per system."""

    needs: Needs = "nothing"
    """Without what there is nothing to check."""
    among: Among = "one ball"
    """Which rows it compares."""
    with_bare: bool = False
    """Whether it looks at defences only, each with the rows of the bare model too."""

    def __call__(self, frame: pd.DataFrame, **settings: Any) -> tuple[Finding, ...]:
        """Return what is found, a finding per system.

        Raises:
            ServaxError, SettingError: `frame` is no valid table of records.
        """
        found = _systems(frame, with_bare=self.with_bare)
        return tuple(Finding(self.name, of, *self.look(rows, **settings)) for of, rows in found)


def _systems(frame: pd.DataFrame, *, with_bare: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the rows of each system; the target is named where there are several."""
    typed = validate(frame)
    # White-box attacks average over the draws of a random system, and of no other.
    typed["random"] = typed.groupby(["target", "defence"])["draws"].transform("max") > 1
    typed.index = pd.MultiIndex.from_frame(typed[UTTERANCE], names=[None] * 3)
    several = len(typed["target"].unique()) > 1
    for (target, defence), rows in typed.groupby(["target", "defence"], sort=True):
        name = f"{defence} ({target})" if several else str(defence)
        if not with_bare:
            yield name, rows
        elif defence != UNDEFENDED:
            bare = (typed["target"] == target) & (typed["defence"] == UNDEFENDED)
            yield name, pd.concat([rows, typed[bare]])


def carried_out(
    check: str, subject: str, run: Callable[[], Finding | Iterable[Finding]]
) -> tuple[Finding, ...]:
    """Return what a check finds; where it cannot be carried out, that is what is found.

    Args:
        check: Name of the check.
        subject: Name of the system, or of all of them.
        run: The check; the model it asks may raise anything.

    Raises:
        MemoryError: The machine is too small, which says nothing of the model.
    """
    try:
        found = run()
        return (found,) if isinstance(found, Finding) else tuple(found)
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        told = f"The check could not be carried out ({reason})."
        return (Finding(check, subject, "not-measured", told, {"raised": reason}),)


def percent(share: float) -> str:
    """Return a share as text: ``0.4567`` is ``45.7 %``."""
    return f"{100 * share:.1f} %"
