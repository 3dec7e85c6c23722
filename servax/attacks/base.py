"""The protocol of all attacks: check, attack in evaluation mode, check what came back.

A classifier is any module from inputs (B, ...) to logits (B, C). A defended model and a waveform
classifier are such modules too, so an attack works on them unchanged. An attack fills one hole:
`Attack.iterates`, which is given a `Problem`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from servax.attacks.problem import Problem, logits_of
from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import check, check_list, check_number, check_types
from servax.models import classes_of, evaluating
from servax.perturbation import (
    L2,
    Ball,
    Bounds,
    Linf,
    Masked,
    check_radius,
    exact_change,
    in_reach,
    into_ball,
    into_bounds,
)

Norm = type[Linf] | type[L2]
Labels = Literal["true", "predicted"]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """What every attack shares; a subclass adds its settings and `iterates`."""

    bounds: Bounds = (0.0, 1.0)
    """Lowest and highest value of a valid input."""
    labels: Labels = "true"
    """Attack the `true` label (standard), or the model's own `predicted` one ([18])."""
    targeted: bool = False
    """Lead towards the classes given as `y` instead of away from them."""

    def __post_init__(self) -> None:
        check_types(self, whole=False)
        check_bounds(self.bounds)
        if self.labels not in ("true", "predicted"):
            raise SettingError.choice("labels", self.labels, ("true", "predicted"))
        if self.targeted and self.labels != "true":
            raise SettingError("labels", self.labels, "true: a targeted attack leads towards y")

    @property
    @abstractmethod
    def ball(self) -> Ball:
        """The changes this attack may make."""

    def ball_around(self, x: Tensor) -> Ball:
        """Return the changes that inputs `x` (B, ...) may undergo, where these depend on them."""
        return self.ball

    @abstractmethod
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield ever stronger adversarial inputs, the last one being the attack's result."""

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial inputs inside the ball around `x` and inside the bounds.

        Args:
            model: From inputs (B, ...) to logits (B, C); attacked in evaluation mode.
            x: Clean inputs (B, ...), inside the bounds.
            y: True classes (B,), int64; the wanted ones of a targeted attack.
            generator: Draws whatever is random in the attack.
            mask: Where an input may change, bool, broadcastable to `x` (False for padded frames);
                default everywhere.

        Returns:
            Adversarial inputs, shape and type of `x`, detached.

        Raises:
            ShapeError: `x`, `y` and `mask` do not belong together, or the model's logits are not
                (B, C).
            SettingError: `x` is outside the bounds, or a random attack got no generator.
        """
        adversarial = x
        for iterate in self.trajectory(model, x, y, generator=generator, mask=mask):
            adversarial = iterate
        return adversarial

    def trajectory(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield each iterate of the attack; arguments and errors as for a call.

        Nothing runs, and nothing is refused, before the first iterate is asked for. The model is in
        evaluation mode from then on until the iterator ends or is closed.
        """
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            ball = problem.within(self.ball_around(problem.x))
            for adversarial in self.iterates(problem):
                yield held(problem.x, adversarial, ball, self.bounds)

    def sweep(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        epsilons: Sequence[float],
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield each size of the ball, the smallest first, with the result of the attack in it.

        What fools the model in a small ball does so in every larger one, so an utterance that fell
        is not attacked again. All other settings stay. Other arguments and errors as for a call.
        """
        attacks = self._of_sizes(epsilons)
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            found = problem.x.clone()
            still = torch.arange(len(found), device=found.device)
            for attack in attacks:
                if len(still) > 0:
                    part = problem.at(still)
                    ball = part.within(attack.ball_around(part.x))
                    *_, last = attack.iterates(part)
                    found[still] = held(part.x, last, ball, self.bounds)
                    still = still[~part.fooled(part.scores(found[still]))]
                yield attack.ball.radius, found.clone()

    def _of_sizes(self, epsilons: Sequence[float]) -> list[Self]:
        """Return this attack with each size of its ball, the smallest first."""
        check_list("epsilons", epsilons)
        if "epsilon" not in {field.name for field in fields(self)}:
            expected = "an attack with the setting epsilon"
            raise SettingError("the attack of a sweep", type(self).__name__, expected)
        sizes: list[dict[str, Any]] = [{"epsilon": epsilon} for epsilon in epsilons]
        sized = [replace(self, **size) for size in sizes]
        return sorted(sized, key=lambda attack: attack.ball.radius)

    @contextmanager
    def facing(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[Problem]:
        """Yield what the attack faces, checked, the model in evaluation mode inside the block.

        Arguments and errors as for a call.
        """
        check("model", model, "nn.Module")
        check_inputs(x, y, self.bounds)
        check_mask(mask, x)
        check("generator", generator, "torch.Generator | None")
        x = x.detach()
        with evaluating(model):
            yield Problem(
                model=model,
                x=x,
                y=self.target(model, x, y),
                mask=mask,
                targeted=self.targeted,
                bounds=self.bounds,
                generator=generator,
            )

    def target(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the classes (B,) that the attack leads away from, or towards."""
        if self.labels == "true":
            return y
        with torch.no_grad():
            return classes_of(logits_of(model, x))


@dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """An attack inside a ball of a norm; most attacks are."""

    epsilon: float = 0.02
    """Size of the ball around the clean input, in units of the input."""
    norm: Norm = Linf
    """`Linf` or `L2`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        check_radius(self.epsilon, "epsilon")

    @property
    def ball(self) -> Ball:
        """The ball of the norm, of radius epsilon."""
        return self.norm(self.epsilon)


def check_count(name: str, value: float) -> None:
    """Refuse a count that is not a whole number above 0."""
    check_number(name, value)
    if not float(value).is_integer() or value < 1:
        raise SettingError(name, value, "a whole number of at least 1")


def check_positive(name: str, value: float) -> None:
    """Refuse a setting that is not finite and above 0."""
    check_number(name, value)
    if not 0 < value < float("inf"):
        raise SettingError(name, value, "a finite number above 0")


def check_norm(norm: object) -> None:
    """Refuse a norm that is not a kind of ball, such as a name."""
    if norm is not Linf and norm is not L2:
        raise SettingError("norm", norm, "servax.perturbation.Linf or L2 (the class)")


def check_bounds(bounds: Bounds) -> None:
    """Refuse bounds between which there is nothing."""
    if not bounds[0] < bounds[1]:
        raise SettingError("bounds", bounds, "(low, high) with low < high")


def check_inputs(x: Tensor, y: Tensor, bounds: Bounds) -> None:
    """Refuse inputs that an attack cannot start from."""
    check("x", x, "Tensor")
    check("y", y, "Tensor")
    if x.ndim < 2 or x.numel() == 0:
        raise ShapeError("x", x.shape, "(B, ...) with at least one element")
    if not x.is_floating_point():
        raise SettingError("the type of x", x.dtype, "a floating-point type")
    if y.shape != x.shape[:1]:
        raise ShapeError("y", y.shape, f"({len(x)},) class indices, one per input")
    if y.dtype != torch.int64:
        raise SettingError("the type of y", y.dtype, "torch.int64, class indices")
    # Compared as tensors, since bounds such as .3 have no exact float32. Refuses NaN too.
    if not bool(((x >= bounds[0]) & (x <= bounds[1])).all()):
        raise SettingError(
            "x",
            f"in [{float(x.min()):.4g}, {float(x.max()):.4g}]",
            f"values inside the bounds [{bounds[0]:g}, {bounds[1]:g}]; scale the input or set "
            "bounds",
        )


def check_mask(mask: Tensor | None, x: Tensor) -> None:
    """Refuse a mask that does not say for each element of `x` whether it may change."""
    if mask is None:
        return
    check("mask", mask, "Tensor")
    if mask.dtype != torch.bool:
        raise SettingError("the type of the mask", mask.dtype, "torch.bool, True may change")
    try:
        mask.expand(x.shape)
    except RuntimeError:
        raise ShapeError("mask", mask.shape, f"one that broadcasts to {tuple(x.shape)}") from None


def held(x: Tensor, adversarial: Tensor, ball: Ball, bounds: Bounds) -> Tensor:
    """Return what an attack made, inside its ball and bounds without slack.

    What the last sum of an attack rounded out of them is taken back, as `into_reach` does; an
    attack that left them by more is refused, since its figures would mean nothing.

    Raises:
        ServaxError: It left its ball or the bounds by more than rounding.
    """
    if in_reach(x, adversarial, ball, bounds):
        return adversarial
    # Rounding grows with the size of the numbers, and its norm with their count.
    size = torch.maximum(x.abs(), adversarial.abs()).flatten(1).amax(dim=1)
    rounding = 4.0 * torch.finfo(x.dtype).eps * size
    # A mask makes the norm of any change outside it infinite, that of rounding too.
    unmasked = ball.ball if isinstance(ball, Masked) else ball
    slack = unmasked.norm(rounding.view(-1, *[1] * (x.ndim - 1)).expand_as(x))
    distances = ball.norm(exact_change(x, adversarial))
    near = (distances <= ball.radius * (1 + 1e-5) + slack) & distances.isfinite()
    if bool(near.all()) and bool(((adversarial >= bounds[0]) & (adversarial <= bounds[1])).all()):
        back = into_ball(x, into_bounds(x, adversarial, bounds), ball)
        if in_reach(x, back, ball, bounds):
            return back
    raise ServaxError(
        f"the attack left its reach: distance {float(distances.max()):.6g} from the clean input, "
        f"expected at most {ball.radius:g}, values expected in [{bounds[0]:g}, {bounds[1]:g}]."
    )
