"""AutoAttack: the schedule without settings that a defence is measured by first.

Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", the versions `standard` and `rand`. Differs in: FAB's place is taken by a
newer minimum-norm attack through foolbox, FMN (Pintor et al. 2021), in L2 by DDN (Rony et al.
2019); targets are all other classes, where the authors take at most nine; with fewer than four
classes plain differences of logits stand for the targeted DLR; Auto-PGD and Square are ours, and
differ as their files say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from servax.attacks.auto_pgd import APGD, TargetedAPGD
from servax.attacks.base import Attack, Labels, Norm
from servax.attacks.outside.presets import nearest
from servax.attacks.schedule import Schedule
from servax.attacks.square import Square
from servax.errors import SettingError
from servax.kinds import renamed
from servax.perturbation import Ball, Bounds, Linf

Version = Literal["standard", "rand"]
RAND_DRAWS = 20
"""Draws whose mean is one gradient of a random defence, in the authors' `rand` version."""


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Schedule):
    """APGD on cross-entropy, targeted APGD on DLR, a minimum-norm attack, then Square.

    Each gets only the utterances that still stand; `run` tells which attempt broke which. Needs
    foolbox: ``pip install 'servax[attacks]'``. The version `rand`, for defences that draw random
    numbers, is APGD on cross-entropy and on DLR; it faces the mean of the defence over
    `RAND_DRAWS` draws (`servax.defences.ExpectationOverDraws`), and needs no foolbox.
    """

    epsilon: float = 0.02
    """Size of the ball around the clean input, in units of the input."""
    norm: Norm = Linf
    """`Linf` or `L2`."""
    steps: int = 100
    """Steps of each gradient attack, per target class where it has targets."""
    queries: int = 5000
    """Queries of Square."""
    bounds: Bounds = (0.0, 1.0)
    """Lowest and highest value of a valid input."""
    labels: Labels = "true"
    """Attack the `true` label (standard), or the model's own `predicted` one."""
    version: Version = "standard"
    """`standard`, or `rand` for random defences."""

    def __post_init__(self) -> None:
        if self.version not in ("standard", "rand"):
            raise SettingError.choice("version", self.version, ("standard", "rand"))
        super().__post_init__()

    @property
    def ball(self) -> Ball:
        """The ball of the norm and radius."""
        return self.norm(self.epsilon)

    @property
    def attempts(self) -> Sequence[Attack]:
        """The four attacks of the standard version, or the two of `rand`."""
        ball: dict[str, Any] = {"epsilon": self.epsilon, "norm": self.norm, "bounds": self.bounds}
        first = APGD(steps=self.steps, labels=self.labels, **ball)
        if self.version == "rand":
            return first, replace(first, loss="dlr")
        return (
            first,
            TargetedAPGD(steps=self.steps, labels=self.labels, **ball),
            replace(nearest(steps=self.steps, **ball), labels=self.labels),
            Square(queries=self.queries, labels=self.labels, **ball),
        )
