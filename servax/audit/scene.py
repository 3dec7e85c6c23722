"""What all stages of an audit share: the systems, the surrogates, the utterances, the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from servax.attacks.fast import labelled
from servax.audit.own_attacks import own_attacks
from servax.audit.settings import AuditSettings
from servax.audit.speed import Speed, measured
from servax.audit.tiers import Catalogue
from servax.errors import SettingError
from servax.evaluation.dataset import EvaluationSet, Progress, gather
from servax.evaluation.options import defended, surrogate
from servax.evaluation.protocol import UNDEFENDED, Identity
from servax.evaluation.systems import System
from servax.evaluation.threats import OwnAttack
from servax.evaluation.trial import shut


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What all stages of an audit share."""

    settings: AuditSettings
    subject: System
    """The bare model."""
    systems: tuple[System, ...]
    """The bare model first, then its defences."""
    surrogates: Mapping[str, System]
    """Models whose gradients a transfer attack takes, by name."""
    material: EvaluationSet
    folder: Path
    """Of the audit."""
    origin: Mapping[str, Any]
    """Provenance that settings do not decide: code, command, machine."""
    speeds: Mapping[str, Speed]
    """What each system and surrogate costs here, by name."""
    attacks: tuple[OwnAttack, ...] = ()
    """Attacks that are not of servax."""

    @property
    def identity(self) -> Identity:
        """What is the same in every row of the records."""
        s = self.settings
        name = labelled(self.subject.name, s.gradients)
        return Identity(name, s.selection.held_out, s.seed)

    @property
    def defences(self) -> tuple[System, ...]:
        """All systems but the bare model."""
        return self.systems[1:]

    @classmethod
    def of(
        cls,
        settings: AuditSettings,
        subject: System,
        *,
        defences: Sequence[str],
        surrogates: Sequence[str],
        attacks: Sequence[str] = (),
        folder: Path,
        origin: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Scene:
        """Return the scene of an audit; everything is loaded and refused here, nothing written.

        Raises:
            SettingError: A defence or surrogate does not fit the model, two have one name, or no
                attack of those wanted is possible.
            ServaxError: A folder or the corpus cannot be read.
        """
        catalogue = _refuse_what_cannot_be(settings, subject)
        own = _own(attacks, settings, subject, catalogue)
        subject, material = gather(subject, settings.selection, progress=progress)
        batch = slice(0, settings.batch_size)
        x, y = material.x[batch], material.y[batch]
        # What was said of zeros when it was loaded is decided on what will be attacked.
        subject = replace(subject, shut=_reason(subject, x))
        _refuse_what_cannot_be(settings, subject)
        systems = (
            replace(subject, name=UNDEFENDED),
            *(_tried(defended(subject, each, seed=settings.seed), x) for each in defences),
        )
        others = [surrogate(subject, wanted) for wanted in surrogates]
        _refuse_twice([system.name for system in (*systems, *others)])
        return cls(
            settings=settings,
            subject=subject,
            systems=systems,
            surrogates={other.name: other for other in others},
            material=material,
            folder=folder,
            origin=origin,
            speeds={system.name: measured(system, x, y) for system in (*systems, *others)},
            attacks=own,
        )


def _reason(subject: System, x: Tensor) -> str:
    """Return why no gradients reach real inputs; whoever loaded the model may know it better."""
    reason = shut(subject.model, x)
    return reason and (subject.shut or reason)


def _tried(system: System, x: Tensor) -> System:
    return system if system.shut else replace(system, shut=shut(system.model, x))


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SettingError(
                "a name", name, "a name for one system or surrogate only; NAME=WHAT gives another"
            )


def _own(
    wanted: Sequence[str], settings: AuditSettings, subject: System, catalogue: Catalogue
) -> tuple[OwnAttack, ...]:
    if not wanted:
        return ()
    if subject.gradients and "adaptive" not in settings.knowledge:
        raise SettingError(
            "knowledge",
            ",".join(settings.knowledge),
            "adaptive among them: attacks of your own go through the whole system",
        )
    return tuple(own_attacks(wanted, settings.budget, catalogue.names))


def _refuse_what_cannot_be(settings: AuditSettings, subject: System) -> Catalogue:
    """Refuse attackers that the model shuts out, and attacks whose library is missing."""
    if not subject.gradients and "black_box" not in settings.knowledge:
        raise SettingError(
            "knowledge",
            ",".join(settings.knowledge),
            f"black_box among them: {subject.name} has no gradients, so no other attack is left "
            f"({subject.shut})",
        )
    # Making an attack looks for its library, so that a missing one is noticed before any work.
    catalogue = Catalogue(settings.tier, settings.budget)
    if "black_box" in settings.knowledge:
        catalogue.black_box()
    if subject.gradients:
        catalogue.adaptive()
    return catalogue
