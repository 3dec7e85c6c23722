"""What is audited, with what: the settings as options give them, and all that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from torch import Tensor

from servax.audit.speed import Speed
from servax.corpora import Selection
from servax.errors import SettingError, during
from servax.evaluation.answers import TIMES
from servax.evaluation.dataset import EvaluationSet, Progress, gather
from servax.evaluation.engine import AttackEngine, Identity
from servax.evaluation.options import defended, surrogate
from servax.evaluation.own_code import own_attacks
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.sound_grid import SoundGrid
from servax.evaluation.suites import TIERS, Suite, sound_grid
from servax.evaluation.systems import System
from servax.evaluation.threats import KNOWLEDGE, Budget, Knowledge, Threat
from servax.evaluation.trial import shut
from servax.kinds import COUNT, Choice, Precision, Rule, Rules, Tier, check_types
from servax.perturbation import Bounds, SignalToNoise


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What is audited, with what, on what."""

    selection: Selection
    """Which utterances."""
    tier: Tier
    """How much is spent."""
    budget: Budget
    """How far an attacker may go."""
    knowledge: tuple[Knowledge, ...] = KNOWLEDGE
    """Which attackers are tried."""
    seed: int = 0
    """Draws starts, queries and utterances."""
    batch_size: int = 16
    """Utterances attacked together."""
    snr_db: float = 30.0
    """Least signal-to-noise ratio of the attack on the sound before a front-end, in dB."""
    ratios_db: tuple[float, ...] = ()
    """Least ratios of the attacks on a model of sound, where the budget is one."""
    gradients: Precision = "float32"
    """`bfloat16` is the fast mode: predictions stay in float32, and records and report name it."""
    speech: int = 8
    """Utterances of which is measured whether they are still the same speech; 0 for none."""
    RULES: ClassVar[Rules] = {
        "tier": Choice(tuple(TIERS)),
        "batch_size": COUNT,
        "snr_db": Rule("a ratio in [0, 90] dB: 16 bits hold no more", lambda v: 0 <= v <= 90),
        "gradients": Choice(get_args(Precision)),
        "speech": Rule("a whole number of at least 0", lambda v: v >= 0),
    }

    def __post_init__(self) -> None:
        check_types(self)
        if (self.budget.norm == "snr") != bool(self.ratios_db):
            raise SettingError("ratios_db", self.ratios_db, "some for a budget of norm snr alone")

    @classmethod
    def on_sound(cls, snr_db: Sequence[float], *, bounds: Bounds, **settings: Any) -> Self:
        """Return settings whose budgets are ratios in dB, for a model of sound; others as usual."""
        ratios = SoundGrid(snr_db=tuple(snr_db)).snr_db
        budget = Budget(radius=SignalToNoise(ratios[-1]).radius, norm="snr", bounds=bounds)
        return cls(budget=budget, ratios_db=ratios, **settings)

    def suite(self, subject: System) -> Suite:
        """Return the attacks of the tier on a model; one on the sound where it has a front-end."""
        if not self.ratios_db:
            return Suite(
                self.tier, self.budget, self.snr_db if subject.inputs == "logmel" else None
            )
        grid = sound_grid(self.tier, self.ratios_db, subject.sample_rate)
        return Suite(self.tier, self.budget, sound=grid)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        told = asdict(self) | {"knowledge": list(self.knowledge)}
        del told["speech"]  # decides no answer
        if self.gradients == "float32":  # audits of before say nothing, and compare
            del told["gradients"]
        del told["snr_db" if self.ratios_db else "ratios_db"]
        return told


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """An audit that can begin: everything is loaded, nothing attacked or written."""

    settings: AuditSettings
    subject: System
    """The bare model."""
    systems: tuple[System, ...]
    """The bare model first, then its defences."""
    surrogates: Mapping[str, System]
    """Models whose gradients a transfer attack takes, by name."""
    dataset: EvaluationSet
    """The utterances."""
    folder: Path
    """Of the audit."""
    origin: Mapping[str, Any]
    """Provenance that settings do not decide: code, command, machine."""
    speeds: Mapping[str, Speed]
    """What each system and surrogate costs here, by name."""
    attacks: tuple[Threat, ...] = ()
    """Attacks that are not of servax."""

    @property
    def defences(self) -> tuple[System, ...]:
        """All systems but the bare model."""
        return self.systems[1:]

    @property
    def suite(self) -> Suite:
        """The attacks of its tier."""
        return self.settings.suite(self.subject)

    @cached_property
    def engine(self) -> AttackEngine:
        """What attacks; each stage alone decides what is drawn in it."""
        s = self.settings
        return AttackEngine(
            dataset=self.dataset,
            identity=Identity(self.subject.name, s.selection.held_out, s.seed),
            batch_size=s.batch_size,
            gradients=s.gradients,
            reseeds=True,
            times=TIMES,
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """Where a table of its records comes from."""
        return dict(self.origin) | {
            "corpus": self.dataset.corpus.name,
            "scheme": self.dataset.corpus.scheme,
            "classes": list(self.dataset.corpus.labels),
            "fold_hash": self.dataset.split,
            "audit": self.settings.to_json(),
        }

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
    ) -> Audit:
        """Return an audit; everything is loaded and refused here, nothing written.

        Raises:
            SettingError: A defence or surrogate does not fit the model, two have one name, or no
                attack of those wanted is possible.
            ServaxError: A folder or the corpus cannot be read.
        """
        refuse_what_cannot_be(settings, subject)
        if attacks and subject.gradients and "adaptive" not in settings.knowledge:
            raise SettingError(
                "knowledge",
                ",".join(settings.knowledge),
                "adaptive among them: attacks of your own go through the whole system",
            )
        own = own_attacks(attacks, settings.suite(subject)) if attacks else []
        subject, dataset = gather(subject, settings.selection, progress=progress)
        batch = slice(0, settings.batch_size)
        x, y = dataset.x[batch], dataset.y[batch]
        # What was said of zeros when it was loaded is decided on what will be attacked; whoever
        # loaded the model may know the reason better.
        reason = shut(subject.model, x)
        subject = replace(subject, shut=reason and (subject.shut or reason))
        refuse_what_cannot_be(settings, subject)
        systems = [replace(subject, name=UNDEFENDED)]
        for wanted in defences:
            system = defended(subject, wanted, seed=settings.seed)
            systems.append(replace(system, shut=system.shut or shut(system.model, x)))
        others = [surrogate(subject, wanted) for wanted in surrogates]
        names = [system.name for system in (*systems, *others)]
        for name in names:
            if names.count(name) > 1:
                expected = "a name for one system or surrogate only; NAME=WHAT gives another"
                raise SettingError("a name", name, expected)
        return cls(
            settings=settings,
            subject=subject,
            systems=tuple(systems),
            surrogates={other.name: other for other in others},
            dataset=dataset,
            folder=folder,
            origin=origin,
            speeds={system.name: _speed(system, x, y) for system in (*systems, *others)},
            attacks=tuple(own),
        )


def _speed(system: System, x: Tensor, y: Tensor) -> Speed:
    with during(f"a trial of {system.name}"):
        return Speed.of(system, x, y)


def refuse_what_cannot_be(settings: AuditSettings, subject: System) -> None:
    """Refuse attackers that the model shuts out, and attacks whose library is missing."""
    if not subject.gradients and "black_box" not in settings.knowledge:
        raise SettingError(
            "knowledge",
            ",".join(settings.knowledge),
            f"black_box among them: {subject.name} has no gradients, so no other attack is left "
            f"({subject.shut})",
        )
    # A missing library is refused before any work.
    known: list[Knowledge] = [name for name in settings.knowledge if name == "black_box"]
    if subject.gradients:
        known.append("adaptive")
    settings.suite(subject).threats(known)
