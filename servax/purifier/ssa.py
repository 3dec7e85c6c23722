"""Self-supervised augmentation: distortions that push a feature extractor away (eq. 1 to 3).

No label and no classifier is involved: the objective is the distance between features of the
distorted and the clean input. Differs from the letter of eq. 2 in two points. It starts from a
random point, since the gradient of a smooth distance is exactly zero at the clean input (Naseer et
al. 2020 start from noise too). It is iterated, since one step of .01 cannot reach a budget of .06.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.kinds import check_types, renamed, typed
from servax.perturbation import Linf, ascend


@renamed(budget="epsilon")
@dataclass(frozen=True)
class SSA:
    """Settings of the augmentation; step and epsilon are the paper's, section 3.2.2."""

    step: float = 0.01
    """s of eq. 2, on the [0, 1] scale."""
    epsilon: float = 0.06
    """δ of eq. 1 and 3: largest change of an element, on the [0, 1] scale (.06 is 4.8 dB)."""
    steps: int = 10
    """Number of ascent steps T (not printed in the paper)."""
    start: Literal["step", "ball"] = "step"
    """`step`: uniform in ±step around the clean input; `ball`: a random corner of the budget, which
    is where NRP's Gaussian start lands after its first projection."""

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.step <= 1:
            raise SettingError("step", self.step, "a number in (0, 1]")
        if not 0 < self.epsilon <= 1:
            raise SettingError("epsilon", self.epsilon, "a number in (0, 1]")
        if self.steps < 1:
            raise SettingError("steps", self.steps, "a whole number of at least 1")
        if self.start not in ("step", "ball"):
            raise SettingError.choice("start", self.start, ("step", "ball"))

    @typed
    def __call__(
        self, extractor: nn.Module, x: Tensor, features: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return distorted inputs (B, 1, M, F) within the budget around `x`.

        Args:
            extractor: F, from (B, 1, M, F) to features, frozen and in evaluation mode.
            x: Clean inputs on [0, 1].
            features: ``extractor(x)``, computed once by the caller, who needs it for L_feat too.
            generator: Draws the start.
        """
        return deque(self.iterates(extractor, x, features, generator), maxlen=1).pop()

    @typed
    def iterates(
        self, extractor: nn.Module, x: Tensor, features: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield the distorted inputs after each step."""
        yield from ascend(
            lambda moved: (extractor(moved) - features).pow(2).flatten(1).mean(1),
            x,
            Linf(self.epsilon),
            step=self.step,
            steps=self.steps,
            start=self._start(x, generator),
        )

    def _start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self.start == "step":
            return x + Linf(min(self.step, self.epsilon)).sample(x, generator)
        return x + self.epsilon * Linf(1.0).sample(x, generator).sign()
