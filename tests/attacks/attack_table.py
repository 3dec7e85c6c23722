"""The attacks that test_all_attacks.py drives. A new attack is one more line of ATTACKS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from servax.attacks import (
    APGD,
    FGSM,
    NES,
    PGD,
    SPSA,
    Attack,
    DiversePGD,
    Ensemble,
    Foolbox,
    MomentumPGD,
    Restarts,
    Square,
    TargetedAPGD,
)
from servax.perturbation import L2, Limit, Linf, SignalToNoise

STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How an attack is made, and what it can do."""

    make: Callable[..., Attack]
    """From ``norm``, ``epsilon`` and the shared settings (bounds, labels, targeted)."""
    norms: tuple[type, ...] = (Linf, L2, SignalToNoise)
    random: bool = False
    """Whether it needs a generator."""
    targeted: bool = True
    """Whether it can lead towards a class."""
    leaves: bool = False
    """Whether utterances leave the batch once they are fooled."""


def quarter(norm, epsilon):
    """Return a step of a quarter of the ball."""
    return 0.25 if norm is SignalToNoise else epsilon / 4


def walk(kind, **settings):
    """Return what makes a PGD of some kind, with a step of a quarter of its ball."""
    return lambda *, norm, epsilon, **shared: kind(
        norm=norm,
        epsilon=epsilon,
        step=quarter(norm, epsilon),
        steps=STEPS,
        **settings,
        **shared,
    )


def auto(kind, **settings):
    return lambda *, norm, epsilon, **shared: kind(
        norm=norm, epsilon=epsilon, **{"steps": STEPS, **settings}, **shared
    )


def one_step(*, norm, epsilon, **shared):
    return FGSM(norm=norm, epsilon=epsilon, **shared)


@dataclass(frozen=True)
class InTurn(Ensemble):
    """An ensemble of one's own: some attacks, one after the other."""

    attacks: Sequence[Attack]

    @property
    def attempts(self) -> Sequence[Attack]:
        return self.attacks

    @property
    def ball(self) -> Limit:
        return max((attack.ball for attack in self.attempts), key=lambda ball: ball.radius)


def in_turn(**settings):
    return InTurn([walk(PGD, early_stop=True)(**settings), auto(APGD)(**settings)])


def restarts(**settings):
    return Restarts(walk(PGD, random_start=True, early_stop=True)(**settings), 3)


def square(**settings):
    return lambda *, norm, epsilon, **shared: Square(
        norm=norm, epsilon=epsilon, queries=60, **settings, **shared
    )


def estimated(kind):
    return lambda *, norm, epsilon, **shared: kind(
        norm=norm,
        epsilon=epsilon,
        step=quarter(norm, epsilon),
        samples=8,
        queries=150,
        **shared,
    )


def foolbox(*, norm, **settings):
    steps = {"steps": STEPS, "rel_stepsize": 0.25}
    return Foolbox(attack=f"{norm.__name__}PGD", norm=norm, settings=steps, **settings)


ATTACKS = {
    "FGSM": Entry(make=one_step),
    "PGD": Entry(make=walk(PGD)),
    "PGD random start": Entry(make=walk(PGD, random_start=True), random=True),
    "PGD leave": Entry(make=walk(PGD, early_stop=True), leaves=True),
    "PGD margin": Entry(make=walk(PGD, loss="margin")),
    "MomentumPGD": Entry(make=walk(MomentumPGD)),
    "MomentumPGD leave": Entry(
        make=walk(MomentumPGD, early_stop=True, random_start=True), random=True, leaves=True
    ),
    "DiversePGD": Entry(make=walk(DiversePGD), random=True),
    "DiversePGD leave": Entry(
        make=walk(DiversePGD, early_stop=True, decay=1.0), random=True, leaves=True
    ),
    "APGD": Entry(make=auto(APGD), random=True, leaves=True),
    "APGD clean start": Entry(make=auto(APGD, random_start=False), leaves=True),
    "APGD DLR": Entry(make=auto(APGD, loss="dlr"), random=True, leaves=True),
    "APGD margin": Entry(make=auto(APGD, loss="margin", early_stop=False), random=True),
    "TargetedAPGD": Entry(make=auto(TargetedAPGD), random=True, targeted=False, leaves=True),
    "TargetedAPGD clean start": Entry(
        make=auto(TargetedAPGD, random_start=False, targets=2), targeted=False, leaves=True
    ),
    "TargetedAPGD stay": Entry(
        make=auto(TargetedAPGD, early_stop=False), random=True, targeted=False
    ),
    "Restarts": Entry(make=restarts, random=True, leaves=True),
    "one after the other": Entry(make=in_turn, random=True, leaves=True),
    "Square": Entry(make=square(), random=True, leaves=True),
    "Square cross-entropy": Entry(make=square(loss="cross-entropy"), random=True, leaves=True),
    "NES": Entry(make=estimated(NES), random=True, leaves=True),
    "SPSA": Entry(make=estimated(SPSA), random=True, leaves=True),
    "foolbox PGD": Entry(make=foolbox, random=True, norms=(Linf, L2)),
    "minimum norm": Entry(make=partial(Foolbox.preset, "nearest"), random=True, norms=(Linf, L2)),
}
