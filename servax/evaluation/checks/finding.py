"""What a sanity check found: a verdict, one sentence, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from servax.errors import SettingError

Severity = Literal["error", "warning", "note", "passed", "not-measured"]
"""`error`: the figures cannot be trusted. `warning`: they flatter, or may. `note`: good to know.

`passed`: as it should be. `not-measured`: what the check needs was not there.
"""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""


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
    evidence: dict[str, Any]
    """The numbers, as JSON holds them."""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise SettingError.choice("severity", self.severity, SEVERITIES)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return asdict(self)


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


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short; torch has no class for that on a CPU."""
    wanted = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return wanted or "can't allocate memory" in str(error)


def worst(severities: Iterable[Severity]) -> Severity:
    """Return the worst of at least one severity."""
    return min(severities, key=SEVERITIES.index)


def percent(share: float) -> str:
    """Return a share as text: ``0.4567`` is ``45.7 %``."""
    return f"{100 * share:.1f} %"
