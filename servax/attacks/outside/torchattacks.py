"""The bridge to torchattacks (Kim 2020): attacks below `torchattacks`.

The package pins old versions of what it needs, so it is in no extra: it is installed without them.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from torch import Tensor

from servax.attacks.base import Norm
from servax.attacks.outside.library import Library, Settings, Task, parameters_of
from servax.attacks.outside.shapes import square_share
from servax.errors import SettingError
from servax.perturbation import L2, Linf

EUCLIDEAN = ("PGDL2", "PGDRSL2")
"""Attacks of one norm, which is L2; that of the others is L-inf."""
SINGLE = ("AutoAttack", "FAB")
"""Attacks that mix float32 with the type of their inputs."""
TARGETED_MODE = "targeted"
"""What an attack that knows targets lists among its modes."""


class Torchattacks(Library):
    """Attacks on images (n, channels, height, width) in [0, 1]."""

    name = "torchattacks"
    package = "torchattacks"
    extra = "`pip install --no-deps torchattacks` (its pinned requirements are old)"
    own = frozenset({"model", "eps", "norm", "n_classes", "seed"})

    def base(self, package: ModuleType) -> type:
        """Return torchattacks' Attack."""
        return package.attack.Attack  # type: ignore[no-any-return]

    def fixed(self, attack: type) -> bool:
        """Return whether it is given a radius; FAB only filters what it found by it."""
        return "eps" in parameters_of(attack) and attack.__name__ != "FAB"

    def check(self, attack: type, *, norm: Norm, targeted: bool) -> None:
        """Refuse a radius in another norm; a target is refused when the attack runs."""
        if not self.fixed(attack) or "norm" in parameters_of(attack):
            return
        known = L2 if attack.__name__ in EUCLIDEAN else Linf
        if norm is not known:
            raise SettingError("norm", norm.__name__, f"{known.__name__}, of {attack.__name__}")

    def needs_starts(self, attack: type) -> bool:
        """Return False."""
        return False

    def alone(self, attack: type) -> bool:
        """Return False."""
        return False

    def run(self, attack: type, settings: Settings, task: Task) -> Tensor:
        """Return what the attack found."""
        given: dict[str, Any] = {
            # FAB keeps what is nearer than eps: without a radius, all that it finds.
            "eps": math.sqrt(task.x[0].numel()) if task.radius is None else task.radius,
            "norm": "Linf" if task.norm is Linf else "L2",
            "n_classes": task.classes,
            "seed": task.seed,
            "p_init": square_share(task.x),
        }
        parameters = parameters_of(attack)
        chosen = {name: value for name, value in given.items() if name in parameters}
        run: Any = attack(task.model, **{**chosen, **settings})
        run.set_device(task.x.device)
        if task.targeted:
            if TARGETED_MODE not in run.supported_mode:
                raise SettingError("targeted", True, f"False: {attack.__name__} knows no target")
            run.set_mode_targeted_by_label(quiet=True)
        x = task.x.float() if attack.__name__ in SINGLE else task.x
        return run(x, task.y)  # type: ignore[no-any-return]
