"""The bridge to foolbox (Rauber et al. 2017, 2020): attacks below `foolbox.attacks`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from servax.attacks.base import Norm
from servax.attacks.outside.library import Library, Settings, Task, parameters_of
from servax.errors import SettingError
from servax.perturbation import L2, Linf

UNTARGETED = ("L2DeepFoolAttack", "LinfDeepFoolAttack")
"""Attacks that take a target without a word and then lead anywhere; others refuse it."""
STARTED = (
    "BinarizationRefinementAttack",
    "BoundaryAttack",
    "HopSkipJumpAttack",
    "L0BrendelBethgeAttack",
    "L1BrendelBethgeAttack",
    "L2BrendelBethgeAttack",
    "LinfinityBrendelBethgeAttack",
    "PointwiseAttack",
)
"""Attacks that walk along the boundary from an input on its far side."""
BROKEN = {
    "L2FMNAttack": "its projection divides each norm by itself and does nothing; DDNAttack is sound"
}
"""Attacks that are wrong in foolbox 3.3.4, and why: their weakness would pass for robustness."""
POWERS: dict[Norm, float] = {Linf: float("inf"), L2: 2.0}
"""The p of each norm."""


class Foolbox(Library):
    """Attacks with a criterion, native to torch tensors."""

    name = "foolbox"
    package = "foolbox.attacks"
    extra = "pip install 'servax[attacks]'"
    own = frozenset({"constraint", "distance"})

    def base(self, package: ModuleType) -> type:
        """Return foolbox' Attack."""
        return package.Attack  # type: ignore[no-any-return]

    def fixed(self, attack: type) -> bool:
        """Return whether it is a FixedEpsilonAttack."""
        from foolbox.attacks.base import FixedEpsilonAttack

        return issubclass(attack, FixedEpsilonAttack)

    def check(self, attack: type, *, norm: Norm, targeted: bool) -> None:
        """Refuse a target of DeepFool, a radius in another norm, and what cannot be measured."""
        from foolbox.attacks.base import AttackWithDistance
        from foolbox.distances import LpDistance

        if attack.__name__ in BROKEN:
            raise SettingError("path", attack.__name__, f"another one: {BROKEN[attack.__name__]}")
        if targeted and attack.__name__ in UNTARGETED:
            raise SettingError("targeted", True, f"False: {attack.__name__} knows no target")
        if not issubclass(attack, AttackWithDistance):
            raise SettingError("path", attack.__name__, "an attack whose changes have a norm")
        distance = getattr(attack, "distance", None)
        if not self.fixed(attack) or not isinstance(distance, LpDistance):
            return
        if distance.p != POWERS[norm]:
            raise SettingError(
                "norm", norm.__name__, f"that of {attack.__name__}: it measures {distance}"
            )

    def needs_starts(self, attack: type) -> bool:
        """Return whether it walks along the boundary."""
        return attack.__name__ in STARTED

    def alone(self, attack: type) -> bool:
        """Return whether it is HopSkipJump: foolbox divides by a norm over the whole batch."""
        return attack.__name__ == "HopSkipJumpAttack"

    def run(self, attack: type, settings: Settings, task: Task) -> Tensor:
        """Return what the attack found; a minimum-norm attack is not told the radius."""
        from foolbox.criteria import Misclassification, TargetedMisclassification
        from foolbox.distances import LpDistance
        from foolbox.models.pytorch import PyTorchModel

        parameters = parameters_of(attack)
        given: dict[str, Any] = dict(settings)
        if "constraint" in parameters:
            given["constraint"] = "linf" if task.norm is Linf else "l2"
        if "distance" in parameters:
            given["distance"] = LpDistance(POWERS[task.norm])
        model = PyTorchModel(task.model, bounds=(0, 1), device=task.x.device)
        criterion = (TargetedMisclassification if task.targeted else Misclassification)(task.y)
        epsilon = task.radius if self.fixed(attack) else None
        extra = {} if task.starts is None else {"starting_points": task.starts}
        _, clipped, _ = attack(**given)(model, task.x, criterion, epsilons=epsilon, **extra)
        return clipped  # type: ignore[no-any-return]
