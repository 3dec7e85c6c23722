"""Which threats an audit tries: `smoke` in a minute, `standard`, `full`.

Every tier has each kind of attacker that the model allows; the higher ones give them more steps,
queries, restarts and attacks. Steps and queries are most: an utterance leaves an attack as soon as
it is fooled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from servax.attacks import (
    APGD,
    FGSM,
    NES,
    PGD,
    Attack,
    AutoAttack,
    DiversePGD,
    RandomNoise,
    Restarts,
    Square,
    TargetedAPGD,
)
from servax.attacks.auto_attack import RAND_DRAWS
from servax.attacks.base import Norm
from servax.attacks.gradient import STRIDE
from servax.attacks.outside import presets
from servax.errors import SettingError
from servax.evaluation.threats import Knowledge, OwnAttack, Threat
from servax.kinds import check_types
from servax.perturbation import L2, Bounds, Linf

Tier = Literal["smoke", "standard", "full"]
TIERS: tuple[Tier, ...] = ("smoke", "standard", "full")
SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 1.0)
"""Sizes of FGSM against the radius: the paper's .003 ... .015 when it is .02, and the radius."""
PAPERS_STEPS = 15
"""Most steps of PGD in the paper's table."""
TOWARDS = "towards-"
"""How the name of an attack begins that leads to a chosen class."""
RADII = (0.25, 0.5, 1.0)
"""Sizes of APGD against the radius."""


@dataclass(frozen=True)
class Effort:
    """How much a tier spends on each attack."""

    pgd: int
    """Steps of PGD through the system; twice as many are tried too."""
    apgd: int
    """Steps of APGD."""
    targeted: int
    """Steps of APGD towards each other class; 0 leaves it out."""
    restarts: int
    """Random restarts of PGD; 0 leaves them out."""
    minimum_norm: int
    """Steps of the minimum-norm attack; 0 leaves it out."""
    transfer: int
    """Steps on the bare model and on surrogates."""
    square: int
    """Queries of Square."""
    estimated: int
    """Queries of NES; 0 leaves it out."""
    decisions: int
    """Queries of HopSkipJump; 0 leaves it out."""
    waveform: int
    """Steps of PGD on the sound; 0 leaves it out."""
    probes: int
    """Utterances of the probing checks."""
    towards: int
    """Steps of APGD towards each class as the one that is wanted; 0 leaves it out."""
    auto: int
    """Steps of each attack of AutoAttack; 0 leaves it out."""


EFFORTS: dict[Tier, Effort] = {
    "smoke": Effort(15, 10, 0, 0, 0, 15, 50, 0, 0, 0, 8, 0, 0),
    "standard": Effort(50, 50, 20, 5, 50, 20, 200, 200, 0, 20, 16, 20, 0),
    "full": Effort(100, 100, 50, 10, 200, 50, 5000, 2000, 1000, 100, 32, 100, 100),
}
"""What each tier spends."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How far an attacker may go."""

    radius: float = 0.02
    """Size of the ball, in units of the input."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
    bounds: Bounds = (0.0, 1.0)
    """Range of valid inputs."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.norm not in ("linf", "l2"):
            raise SettingError.choice("norm", self.norm, ("linf", "l2"))
        if not 0 < self.radius < float("inf"):
            raise SettingError("radius", self.radius, "a finite number above 0")

    @property
    def ball(self) -> Norm:
        """The kind of ball."""
        return Linf if self.norm == "linf" else L2


@dataclass(frozen=True)
class Catalogue:
    """The threats of one tier."""

    tier: Tier
    budget: Budget

    @property
    def effort(self) -> Effort:
        """What the tier spends."""
        return EFFORTS[self.tier]

    @property
    def names(self) -> list[str]:
        """Names of its attacks, but those on surrogates and on the sound."""
        parts = (self.oblivious, self.noise, self.black_box, self.bpda, self.adaptive)
        return sorted({threat.name for part in parts for threat in part()})

    def own(self, own: OwnAttack, knowledge: Knowledge) -> Threat:
        """Return the threat of an attack that is not of servax."""
        steps = getattr(own.attack, "steps", 1)
        threat = self._threat(own.name, knowledge, own.attack, gradients=int(steps))
        return replace(threat, code=own.code)

    def oblivious(self) -> list[Threat]:
        """Return the attacks on the bare model, for every defence: the paper's threat model."""
        e = self.effort
        threats = [self._fgsm("oblivious"), self._papers("oblivious")]
        if self.tier != "smoke":
            attack = APGD(**self._ball(), steps=e.transfer, early_stop=False)
            threats.append(self._threat("apgd-ce", "oblivious", attack, gradients=e.transfer + 1))
        return threats

    def transfer(self, surrogate: str) -> list[Threat]:
        """Return the attacks on a surrogate, for every system."""
        steps = self.effort.transfer
        diverse = DiversePGD(
            **self._ball(), step=2.0 * self.budget.radius / steps, steps=steps, decay=1.0
        )
        return [
            self._pgd(
                f"pgd-{surrogate}", "transfer", PAPERS_STEPS, early_stop=False, surrogate=surrogate
            ),
            self._threat(
                f"mi-di-{surrogate}", "transfer", diverse, gradients=steps, surrogate=surrogate
            ),
        ]

    def noise(self) -> list[Threat]:
        """Return noise of the same size, which is no attack."""
        return [self._threat("noise", "black_box", RandomNoise(**self._ball()), queries=1)]

    def black_box(self) -> list[Threat]:
        """Return the attacks that ask the system only."""
        e = self.effort
        know: Knowledge = "black_box"
        square = Square(**self._ball(), queries=e.square)
        threats = [self._threat("square", know, square, queries=e.square)]
        if e.estimated:
            nes = NES(**self._ball(), step=self.budget.radius / 4, queries=e.estimated)
            threats.append(self._threat("nes", know, nes, queries=e.estimated))
        if e.decisions:
            jump = presets.hop_skip_jump(queries=e.decisions, **self._ball())
            threats.append(self._threat("hop-skip-jump", know, jump, queries=e.decisions))
        return threats

    def bpda(self) -> list[Threat]:
        """Return the attacks with the identity in place of a defence's gradient."""
        e = self.effort
        know: Knowledge = "bpda"
        threats = [self._pgd("pgd", know, e.pgd)]
        if self.tier != "smoke":
            attack = APGD(**self._ball(), steps=e.apgd)
            threats.append(self._threat("apgd-ce", know, attack, gradients=e.apgd + 1))
        return threats

    def adaptive(self, knowledge: Knowledge = "adaptive", *, random: bool = False) -> list[Threat]:
        """Return the attacks through the whole system, which may draw random numbers."""
        e = self.effort
        threats = [
            self._fgsm(knowledge),
            self._papers(knowledge),
            *([self._pgd("pgd", knowledge, e.pgd)] if e.pgd != PAPERS_STEPS else []),
            self._pgd("pgd-2x", knowledge, 2 * e.pgd),
            self._apgd(knowledge),
        ]
        if e.targeted:
            towards = TargetedAPGD(**self._ball(), steps=e.targeted)
            threats.append(
                self._threat("apgd-targeted", knowledge, towards, gradients=3 * (e.targeted + 1))
            )
        if e.restarts:
            attack = self._random_pgd(e.apgd)
            threats.append(
                self._threat(
                    "pgd-restarts",
                    knowledge,
                    Restarts(attack=attack, count=e.restarts),
                    gradients=e.restarts * e.apgd,
                )
            )
        threats += self._minimum_norm(knowledge)
        if e.auto:
            threats.append(self._auto(knowledge, random=random))
        return threats

    def towards(self, classes: Sequence[str], knowledge: Knowledge) -> list[Threat]:
        """Return the attacks that lead every utterance of another class to a chosen one."""
        steps = self.effort.towards
        if not steps:
            return []
        attack = APGD(**self._ball(), steps=steps, targeted=True)
        return [
            replace(
                self._threat(f"{TOWARDS}{_fit(name)}", knowledge, attack, gradients=steps + 1),
                towards=name,
            )
            for name in classes
        ]

    def _auto(self, knowledge: Knowledge, *, random: bool) -> Threat:
        e = self.effort
        attack = AutoAttack(
            **self._ball(), steps=e.auto, queries=e.square, version="rand" if random else "standard"
        )
        if random:
            threat = self._threat("autoattack", knowledge, attack, gradients=2 * (e.auto + 1))
            return replace(threat, draws=RAND_DRAWS)
        gradients = 4 * (e.auto + 1) + e.auto
        return self._threat("autoattack", knowledge, attack, gradients=gradients, queries=e.square)

    def _minimum_norm(self, knowledge: Knowledge) -> list[Threat]:
        e, norm = self.effort, self.budget.ball
        if not e.minimum_norm:
            return []
        attack = presets.nearest(steps=e.minimum_norm, **self._ball())
        threats = [self._threat("minimum-norm", knowledge, attack, gradients=e.minimum_norm)]
        if self.tier == "full":
            deep = presets.deepfool(**self._ball())
            threats.append(self._threat("deepfool", knowledge, deep, gradients=200))
            if norm is L2:
                wagner = presets.carlini_wagner(**self._reach())
                threats.append(self._threat("carlini-wagner", knowledge, wagner, gradients=900))
        return threats

    def _fgsm(self, knowledge: Knowledge) -> Threat:
        sweep = self._sizes(SHARES)
        attack = FGSM(epsilon=sweep[-1], norm=self.budget.ball, bounds=self.budget.bounds)
        return self._threat("fgsm", knowledge, attack, gradients=1, sweep=sweep)

    def _papers(self, knowledge: Knowledge) -> Threat:
        """Return the paper's longest PGD, to the end; its inputs become sound afterwards."""
        name = "pgd" if self.effort.pgd == PAPERS_STEPS else f"pgd-{PAPERS_STEPS}"
        return replace(self._pgd(name, knowledge, PAPERS_STEPS, early_stop=False), kept=True)

    def _pgd(
        self,
        name: str,
        knowledge: Knowledge,
        steps: int,
        *,
        early_stop: bool = True,
        surrogate: str = "",
    ) -> Threat:
        # The paper's step and radius, .003 in .02, for any radius; more steps are as long as that.
        attack = PGD(
            **self._ball(), step=STRIDE * self.budget.radius, steps=steps, early_stop=early_stop
        )
        return self._threat(name, knowledge, attack, gradients=steps, surrogate=surrogate)

    def _apgd(self, knowledge: Knowledge) -> Threat:
        # The largest radius last: who falls to a smaller one is not attacked again.
        sweep = self._sizes(RADII)
        attack = APGD(**self._ball(), steps=self.effort.apgd)
        gradients = len(sweep) * (self.effort.apgd + 1)
        return self._threat("apgd-ce", knowledge, attack, gradients=gradients, sweep=sweep)

    def _random_pgd(self, steps: int) -> Attack:
        step = max(2.5 * self.budget.radius / steps, 0.05 * self.budget.radius)
        return PGD(**self._ball(), step=step, steps=steps, random_start=True, early_stop=True)

    def _sizes(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """Return shares of the radius without the dust of floats; the radius stays as it is."""
        radius = self.budget.radius
        return tuple(radius if each == 1 else float(f"{each * radius:.9g}") for each in shares)

    def _ball(self) -> dict[str, Any]:
        return {"norm": self.budget.ball, **self._reach()}

    def _reach(self) -> dict[str, Any]:
        return {"epsilon": self.budget.radius, "bounds": self.budget.bounds}

    def _threat(
        self,
        name: str,
        knowledge: Knowledge,
        attack: Attack,
        *,
        gradients: int = 0,
        queries: int = 0,
        sweep: tuple[float, ...] = (),
        surrogate: str = "",
    ) -> Threat:
        return Threat(
            name=name,
            knowledge=knowledge,
            attack=attack,
            strength=attack.ball.radius,
            gradients=gradients,
            queries=queries,
            sweep=sweep,
            surrogate=surrogate,
        )


def _fit(name: str) -> str:
    """Return the name of a class as part of the name of a folder; two names stay two."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
