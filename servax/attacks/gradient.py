"""FGSM and PGD: ascent on the classification loss.

Equations 10 and 11 of the paper; Goodfellow et al. 2015, Madry et al. 2018. The paper prints
neither PGD's step nor its radius; step .003 and radius .02 are ours (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from servax.attacks.base import Attack, Norm, check_inputs, check_reach, evaluating, logits_of
from servax.errors import SettingError
from servax.perturbation import (
    L2,
    Ball,
    Linf,
    Objective,
    ascend,
    check_radius,
    input_gradient,
    into_reach,
)


def class_loss(model: nn.Module, y: Tensor) -> Objective:
    """Return the objective that leads away from classes `y`: cross-entropy per input, (B,).

    The objective raises a SettingError when a class is not one of the model's: torch would take
    -100 for "ignore", and the attack would do nothing.
    """
    lowest, highest = int(y.min()), int(y.max())

    def loss(x: Tensor) -> Tensor:
        logits = logits_of(model, x)
        if not (lowest >= 0 and highest < logits.shape[1]):
            raise SettingError(
                "y", f"in [{lowest}, {highest}]", f"classes in [0, {logits.shape[1] - 1}]"
            )
        # A copy, since a tensor made in inference mode could not be saved for the backward pass.
        return nn.functional.cross_entropy(logits, y.clone(), reduction="none")

    return loss


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent (eq. 11), `steps` steps of length `step` in a ball."""

    step: float = 0.003
    """Length of one step, in units of the input (.003 is .24 dB on the default scale)."""
    radius: float = 0.02
    """Size of the ball around the clean input, in units of the input."""
    steps: int = 15
    """Number of steps, the paper's k."""
    norm: Norm = Linf
    """`Linf` or `L2`."""
    random_start: bool = False
    """Begin at a random point of the ball instead of the clean input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step < float("inf"):
            raise SettingError("step", self.step, "a finite number above 0")
        if not float(self.steps).is_integer() or self.steps < 1:
            raise SettingError("steps", self.steps, "a whole number of at least 1")
        check_norm(self.norm)
        check_radius(self.radius)

    @property
    def ball(self) -> Ball:
        """The ball of the norm and radius."""
        return self.norm(self.radius)

    def iterates(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps: without a random start, x_k is the result of PGD with k steps."""
        start = None
        if self.random_start:
            if generator is None:
                raise SettingError("generator", None, "a torch.Generator, the start is random")
            start = x + self.ball.sample(x, generator)
        yield from ascend(
            class_loss(model, y),
            x,
            self.ball,
            step=self.step,
            steps=int(self.steps),
            start=start,
            bounds=self.bounds,
        )


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """Fast gradient sign method (eq. 10): one PGD step as long as the ball is wide."""

    epsilon: float = 0.003
    """Size of the change, in units of the input (.003 is .24 dB on the default scale)."""
    norm: Norm = Linf
    """`Linf` or `L2`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < float("inf"):
            raise SettingError("epsilon", self.epsilon, "a finite number above 0")
        check_norm(self.norm)

    @property
    def ball(self) -> Ball:
        """The ball of radius epsilon."""
        return self.norm(self.epsilon)

    def iterates(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield the one step."""
        del generator
        yield from ascend(
            class_loss(model, y), x, self.ball, step=self.epsilon, steps=1, bounds=self.bounds
        )

    def sweep(
        self, model: nn.Module, x: Tensor, y: Tensor, epsilons: Sequence[float]
    ) -> Iterator[Tensor]:
        """Yield the result for each of `epsilons` from a single gradient.

        The gradient is taken at the clean input, so it is the same for every size. Other arguments
        and errors as for a call.
        """
        balls = [replace(self, epsilon=epsilon).ball for epsilon in epsilons]
        x = x.detach()
        check_inputs(x, y, self.bounds)
        with evaluating(model):
            gradient = input_gradient(class_loss(model, self.target(model, x, y)), x)
        for ball in balls:
            step = ball.radius * ball.steepest(gradient)
            adversarial = into_reach(x, x + step, ball, self.bounds)
            check_reach(x, adversarial, ball, self.bounds)
            yield adversarial


def check_norm(norm: object) -> None:
    """Refuse a norm that is not a kind of ball, such as a name."""
    if norm not in (Linf, L2):
        raise SettingError("norm", norm, "servax.perturbation.Linf or L2 (the class)")
