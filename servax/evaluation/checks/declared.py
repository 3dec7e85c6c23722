"""What a sanity check is: declared once, with what it needs, what it looks at and what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, update_wrapper
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.errors import SettingError
from servax.evaluation.records import UNDEFENDED, validate
from servax.evaluation.trial import Repeats, out_of_memory, repeats
from servax.perturbation import Bounds

Severity = Literal["error", "warning", "note", "passed", "not-measured"]
"""`error`: the figures cannot be trusted. `warning`: they flatter, or may. `note`: good to know.

`passed`: as it should be. `not-measured`: what the check needs was not there.
"""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""
Verdict = tuple[Severity, str, Mapping[str, Any]]
"""How bad it is, one sentence with its numbers, and the numbers as JSON holds them."""
Needs = Literal["nothing", "white-box", "defences"]
"""Of an audit: attackers who know a system with gradients; or defences of such a model."""
Among = Literal["all", "one ball", "one size"]
"""Rows of which attacks are compared."""
VOTES = 5
"""Passes that vote on each answer of a random system."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A model under check, and clean inputs that it should get right."""

    model: nn.Module
    """From inputs (B, ...) to logits (B, K)."""
    x: Tensor
    """Clean inputs (B, ...)."""
    y: Tensor
    """True classes (B,)."""
    subject: str
    """Name of the system."""
    facing: nn.Module | None = None
    """What attackers differentiate, where that is not the model: its mean over draws."""
    eot_draws: int = 1
    """Draws per gradient in the attacks on it, more than one for a random model."""
    exact: bool = True
    """Whether its gradients are labelled ``adaptive``; else ``bpda``."""
    multi_label: bool = False
    """Whether it says itself that its classes do not exclude each other."""
    attack: PGD = field(default_factory=PGD)
    """What it is attacked with; says the ball and the bounds."""
    mask: Tensor | None = None
    """Where an input may change."""
    longer: Tensor | None = None
    """The same utterances with something behind them; a model may refuse the length."""
    sample_rate: int | None = None
    """Of waveforms (B, T), in Hz; none for other inputs."""
    batch_size: int = 64
    """Inputs per forward pass, where a check does not ask for more."""
    inner_points: int = 100
    """Inner points of a readout of the planted test."""
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    """Draws whatever is random in a check or an attack."""

    @property
    def faced(self) -> nn.Module:
        """What attackers differentiate."""
        return self.model if self.facing is None else self.facing

    @property
    def votes(self) -> int:
        """Passes that vote on each answer."""
        return VOTES if self.eot_draws > 1 else 1

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest value of an input."""
        return self.attack.bounds

    @cached_property
    def seen(self) -> Repeats:
        """How far its answers to the same inputs differ."""
        return repeats(self.model, self.x[: self.batch_size])

    @cached_property
    def attacked(self) -> Tensor:
        """What the attack makes of the inputs."""
        return self.attack(self.faced, self.x, self.y, generator=self.generator)

    def first(self, count: int) -> Case:
        """Return the case of its first utterances only."""
        if count >= len(self.x):
            return self
        longer = None if self.longer is None else self.longer[:count]
        mask = self.mask[:count] if self.mask is not None and len(self.mask) > 1 else self.mask
        return replace(self, x=self.x[:count], y=self.y[:count], longer=longer, mask=mask)


class Check:
    """A check of a model: called with a case, it gives a finding.

    Args:
        look: From a case to a verdict; its name is that of the check, its docstring tells when.
        gradients: Whether it needs gradients of the model.
        part: How many utterances it looks at, of so many; all of them by default.
    """

    def __init__(
        self, look: Callable[..., Verdict], gradients: bool, part: Callable[[int], int]
    ) -> None:
        update_wrapper(self, look)
        self.name = look.__name__.replace("_", "-")
        self.look, self.gradients, self.part = look, gradients, part

    def __call__(self, case: Case, **settings: Any) -> Finding:
        """Return what is found."""
        return Finding(self.name, case.subject, *self.look(case, **settings))

    def carried_out(self, case: Case) -> tuple[Finding, ...]:
        """Return what is found of the utterances it looks at, also where it cannot be done."""
        some = case.first(self.part(len(case.x)))
        return carried_out(self.name, case.subject, lambda: self(some))


class RecordCheck:
    """A check of records alone: called with a table, it gives one finding per system.

    Args:
        look: From the rows of one system to a verdict; named and documented as that of a `Check`.
        needs: Without what there is nothing to check.
        among: Whether it compares all rows, attacks in the ball of the audit for any wrong class,
            or those of the audit's size alone.
        with_bare: Whether it looks at defences only, each with the rows of the bare model too.
    """

    def __init__(
        self, look: Callable[..., Verdict], needs: Needs, among: Among, with_bare: bool
    ) -> None:
        update_wrapper(self, look)
        self.name = look.__name__.replace("_", "-")
        self.look, self.needs, self.among, self.with_bare = look, needs, among, with_bare

    def __call__(self, frame: pd.DataFrame, **settings: Any) -> tuple[Finding, ...]:
        """Return what is found, a finding per system.

        Raises:
            ServaxError, SettingError: `frame` is no valid table of records.
        """
        found = _systems(frame, with_bare=self.with_bare)
        return tuple(Finding(self.name, of, *self.look(rows, **settings)) for of, rows in found)


def of_model(
    *, gradients: bool = False, part: Callable[[int], int] = int
) -> Callable[[Callable[..., Verdict]], Check]:
    """Declare a check of a model, from a case to a verdict."""
    return lambda look: Check(look, gradients, part)


def of_records(
    *, needs: Needs = "nothing", among: Among = "one ball", with_bare: bool = False
) -> Callable[[Callable[..., Verdict]], RecordCheck]:
    """Declare a check of records, from the rows of one system to a verdict."""
    return lambda look: RecordCheck(look, needs, among, with_bare)


def _systems(frame: pd.DataFrame, *, with_bare: bool = False) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the rows of each system; the target is named where there are several."""
    typed = validate(frame)
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
