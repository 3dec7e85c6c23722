"""The strengths at which attacks are measured: Table 1 and Figure 2 of the paper."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from servax.attacks import FGSM, PGD
from servax.errors import SettingError
from servax.kinds import check_list, check_types
from servax.perturbation import check_radius
from servax.training import Precision

TABLE_STEPS = (3, 6, 9, 12, 15)
"""k of PGD in Table 1 of the paper."""

AttackedLabel = Literal["true", "predicted"]


@dataclass(frozen=True)
class AttackGrid:
    """Strengths of the attacks; the grid is the paper's, section 3.2.3 and Figure 2."""

    epsilons: tuple[float, ...] = (0.003, 0.006, 0.009, 0.012, 0.015)
    """ε of FGSM, on the [0, 1] scale (.003 is .24 dB)."""
    step: float = 0.003
    """Step of PGD, on the [0, 1] scale; not printed in the paper."""
    radius: float = 0.02
    """Radius of PGD's ball, on the [0, 1] scale (.02 is 1.6 dB); not printed in the paper."""
    steps: int = 30
    """Largest k of PGD; every k from 1 is scored."""
    adaptive_steps: int = 30
    """Steps of the adaptive PGD (same step and radius)."""
    label: AttackedLabel = "true"
    """Whose loss rises: of the `true` label, or of what the model `predicted` (as [18] does)."""
    gradients: Precision = "float32"
    """`bfloat16` is the fast mode: predictions stay in float32, and records name it."""

    def __post_init__(self) -> None:
        check_types(self)
        check_list("epsilons", self.epsilons)
        object.__setattr__(self, "epsilons", tuple(self.epsilons))
        if not self.epsilons:
            raise SettingError("epsilons", self.epsilons, "at least one size")
        if len(set(self.epsilons)) < len(self.epsilons):
            raise SettingError("epsilons", self.epsilons, "each size once")
        for epsilon in self.epsilons:
            self.fgsm(epsilon)
        if self.adaptive_steps < 1:
            raise SettingError(
                "adaptive_steps", self.adaptive_steps, "a whole number of at least 1"
            )
        if self.label not in ("true", "predicted"):
            raise SettingError.choice("label", self.label, ("true", "predicted"))
        if self.gradients not in ("float32", "bfloat16"):
            raise SettingError.choice("gradients", self.gradients, ("float32", "bfloat16"))
        check_radius(self.radius)
        self.pgd(self.steps)

    @property
    def adaptive_ks(self) -> tuple[int, ...]:
        """K at which the adaptive PGD is scored: those of Table 1 on its way, and its last."""
        return tuple(
            sorted({k for k in TABLE_STEPS if k < self.adaptive_steps} | {self.adaptive_steps})
        )

    @property
    def longest(self) -> int:
        """Steps of the trajectory on the bare target, which serves both kinds of attacker."""
        return max(self.steps, self.adaptive_steps)

    def told(self) -> dict[str, Any]:
        """Return what provenance says of the grid; of the gradients only where they are fast."""
        told = asdict(self)
        if self.gradients == "float32":  # tables of before say nothing, and must agree
            del told["gradients"]
        return told

    def fgsm(self, epsilon: float) -> FGSM:
        """Return FGSM of one size."""
        return FGSM(epsilon=epsilon)

    def pgd(self, steps: int) -> PGD:
        """Return PGD with `steps` steps, from the clean input."""
        return PGD(step=self.step, epsilon=self.radius, steps=steps)
