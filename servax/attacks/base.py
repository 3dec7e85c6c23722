"""The protocol of all attacks: check, attack in evaluation mode, check what came back.

A classifier is any module from inputs (B, ...) to logits (B, C). A defended model and a waveform
classifier are such modules too, so an attack works on them unchanged. An attack fills one hole:
`Attack.iterates`, which is given a `Problem`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from servax.attacks.logits import Loss, logits_of
from servax.errors import SettingError, ShapeError
from servax.kinds import NOT_NEGATIVE, Choice, Rule, Rules, check, check_list, check_types
from servax.models import classes_of, evaluating
from servax.perturbation import (
    L2,
    Ball,
    Bounds,
    Limit,
    Linf,
    Masked,
    Objective,
    SignalToNoise,
    held,
    into_16_bit_inside,
    straight_through,
)
from servax.runtime.samples import STEP_16_BIT

Norm = type[Linf] | type[L2] | type[SignalToNoise]
Labels = Literal["true", "predicted"]


ONE_STEP = Rule(
    f"a finite number at least {STEP_16_BIT:g} (1/32768, one step of 16 bits)",
    lambda epsilon: STEP_16_BIT <= epsilon < math.inf,
)
"""What the size of an L-inf ball must be in which samples are rounded to 16 bits."""


class Given(TypedDict, total=False):
    """What else every form of a call may be given; `Attack.__call__` says what it means."""

    generator: torch.Generator | None
    mask: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One batch as an attack sees it; `at` gives the part of it that is still open."""

    model: nn.Module
    """From inputs (n, ...) to logits (n, K), in evaluation mode."""
    x: Tensor
    """Clean inputs (n, ...), inside the bounds."""
    y: Tensor
    """Classes (n,) to lead away from; to lead towards when `targeted`."""
    mask: Tensor | None = None
    """Where an input may change, bool, broadcastable to `x`; None is everywhere."""
    targeted: bool = False
    """Whether `y` is wanted instead of avoided."""
    bounds: Bounds = (0.0, 1.0)
    """Lowest and highest value of a valid input."""
    generator: torch.Generator | None = None
    """Draws whatever is random."""
    rounded_in: Limit | None = None
    """The ball in which what is tried is rounded to 16 bits; None rounds nothing."""

    def at(self, rows: Tensor) -> Problem:
        """Return the problem of the utterances `rows` (m,), int64 or bool."""
        mask = self.mask
        if mask is not None and mask.ndim == self.x.ndim and len(mask) == len(self.x):
            mask = mask[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], mask=mask)

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits (n, K) of inputs (n, ...), or refuse what the model returned.

        Raises:
            SettingError: The output is no tensor, or a class is not one of the model's: torch would
                take -100 for "ignore", and the attack would do nothing.
            ShapeError: The output is not (n, K).
        """
        logits = logits_of(self.model, z)
        lowest, highest = int(self.y.min()), int(self.y.max())
        if not (lowest >= 0 and highest < logits.shape[1]):
            raise SettingError(
                "y", f"in [{lowest}, {highest}]", f"classes in [0, {logits.shape[1] - 1}]"
            )
        return logits

    def heard(self, z: Tensor) -> Tensor:
        """Return what the model is given of inputs (n, ...) in the ball: themselves, or 16 bits.

        An attack gathers its steps at full precision, and each is judged as a file would hold it;
        the gradient goes straight through.
        """
        if self.rounded_in is None:
            return z
        ball = self.rounded_in.around(self.x)
        rounded = into_16_bit_inside(self.x, z.detach(), ball, self.bounds, self.mask)
        return straight_through(z, rounded) if z.requires_grad else rounded

    def scores(self, z: Tensor) -> Tensor:
        """Return the logits (n, K) of inputs in the ball, without gradients."""
        # Not inference mode: losses of scores may be compared with those of gradients later.
        with torch.no_grad():
            return self.logits(self.heard(z))

    def fooled(self, logits: Tensor) -> Tensor:
        """Return whether the attacker has what they want, bool (n,).

        Raises:
            ServaxError: An answer is NaN or infinite: it is neither right nor fooled.
        """
        predicted = classes_of(logits)
        return predicted == self.y if self.targeted else predicted != self.y

    def gain(self, loss: Loss, logits: Tensor) -> Tensor:
        """Return what the attacker raises, (n,): the loss, or minus it when targeted."""
        # A copy, since a tensor made in inference mode could not be saved for the backward pass.
        value = loss(logits, self.y.clone())
        return -value if self.targeted else value

    def objective(self, loss: Loss) -> Objective:
        """Return the objective for `servax.perturbation.ascend`."""
        return lambda z: self.gain(loss, self.logits(self.heard(z)))

    def within(self, limit: Limit) -> Ball:
        """Return the ball of `limit` around the inputs, restricted to where these may change."""
        ball = limit.around(self.x)
        return ball if self.mask is None else Masked(ball, self.mask)

    def put_back(self, z: Tensor) -> Tensor:
        """Return inputs (n, ...) with the clean values where nothing may change."""
        return z if self.mask is None else torch.where(self.mask, z, self.x)

    def random(self) -> torch.Generator:
        """Return the generator, or raise a SettingError: the attack is random."""
        if self.generator is None:
            raise SettingError("generator", None, "a torch.Generator, the attack is random")
        return self.generator


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """What every attack shares; a subclass adds its settings and `iterates`."""

    bounds: Bounds = (0.0, 1.0)
    """Lowest and highest value of a valid input."""
    labels: Labels = "true"
    """Attack the `true` label (standard), or the model's own `predicted` one ([18])."""
    targeted: bool = False
    """Lead towards the classes given as `y` instead of away from them."""

    RULES: ClassVar[Rules] = {"labels": Choice(("true", "predicted"))}

    def __post_init__(self) -> None:
        check_types(self, whole=False)
        if not self.bounds[0] < self.bounds[1]:
            raise SettingError("bounds", self.bounds, "(low, high) with low < high")
        if self.targeted and self.labels != "true":
            raise SettingError("labels", self.labels, "true: a targeted attack leads towards y")

    @property
    @abstractmethod
    def ball(self) -> Limit:
        """The changes this attack may make; `ball.around(x)` are those of inputs `x` (B, ...)."""

    @property
    def in_16_bits(self) -> bool:
        """Whether samples are rounded to 16 bits."""
        return False

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
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            return self.result(problem)

    def result(self, problem: Problem) -> Tensor:
        """Return the last iterate for a problem; its clean inputs when there is none."""
        problem = self.rounding(problem)
        last = last_of(self.iterates(problem), problem.x)
        return self.held(problem, last)

    def trajectory(
        self, model: nn.Module, x: Tensor, y: Tensor, **given: Unpack[Given]
    ) -> Iterator[Tensor]:
        """Yield each iterate of the attack; arguments and errors as for a call.

        Nothing runs, and nothing is refused, before the first iterate is asked for. The model is in
        evaluation mode from then on until the iterator ends or is closed.
        """
        with self.facing(model, x, y, **given) as problem:
            problem = self.rounding(problem)
            for adversarial in self.iterates(problem):
                yield self.held(problem, adversarial)

    def held(self, problem: Problem, adversarial: Tensor) -> Tensor:
        """Return inputs (n, ...) as this attack may hand them out, or raise a ServaxError."""
        ball = problem.within(self.ball)
        return held(problem.x, problem.heard(adversarial), ball, self.bounds)

    def rounding(self, problem: Problem) -> Problem:
        """Return a problem in which is rounded what this attack rounds.

        Raises:
            ShapeError: It rounds samples, and the inputs are not (B, T).
        """
        if self.in_16_bits and problem.x.ndim != 2:
            raise ShapeError("x", problem.x.shape, "waveforms (B, T), to be rounded to 16 bits")
        return replace(problem, rounded_in=self.ball if self.in_16_bits else None)

    def sweep(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        epsilons: Sequence[float],
        *,
        leaves: bool | None = None,
        **given: Unpack[Given],
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield each radius of the ball, the smallest first, with the result of the attack in it.

        What fools the model in a small ball does so in every larger one, so an utterance that fell
        `leaves`, and is not attacked again. What is to fool other models too, or one that draws, is
        made to the end in every ball: by default that of an attack whose `early_stop` is False. All
        other settings stay. Other arguments and errors as for a call.
        """
        attacks = self.of_sizes(epsilons)
        if leaves is None:
            leaves = getattr(self, "early_stop", True)
        with self.facing(model, x, y, **given) as problem:
            found = problem.x.clone()
            still = torch.arange(len(found), device=found.device)
            for attack in attacks:
                if len(still) > 0:
                    part = problem.at(still)
                    found[still] = attack.result(part)
                    if leaves:
                        still = still[~part.fooled(part.scores(found[still]))]
                yield attack.ball.radius, found.clone()

    def of_sizes(self, epsilons: Sequence[float]) -> list[Self]:
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
    """Size of the ball around the clean input, in units of the input; for `SignalToNoise` the
    lowest ratio of each utterance to its change, in dB (40 is a hundredth of its norm)."""
    norm: Norm = Linf
    """`Linf`, `L2` or `SignalToNoise`."""
    sixteen_bit: bool = field(default=False, repr=False)
    """Round waveforms (B, T) to 16 bits whenever they are tried and at the end, inside the ball:
    what a WAV file holds."""

    RULES: ClassVar[Rules] = {"epsilon": NOT_NEGATIVE}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)
        if self.sixteen_bit and self.norm is Linf:
            ONE_STEP.check("epsilon", self.epsilon)

    @property
    def ball(self) -> Limit:
        """The ball of the norm, of size epsilon."""
        return self.norm(self.epsilon)

    @property
    def in_16_bits(self) -> bool:
        """Whether samples are rounded to 16 bits."""
        return self.sixteen_bit


def last_of(iterates: Iterator[Tensor], start: Tensor) -> Tensor:
    """Return the last of the iterates, or where the attack began when there are none."""
    last = deque(iterates, maxlen=1)
    return last[0] if last else start


def check_norm(norm: object, known: Sequence[Norm] = (Linf, L2, SignalToNoise)) -> None:
    """Refuse a norm that is not one of the kinds of ball, such as a name."""
    if not any(norm is kind for kind in known):
        *names, last = (kind.__name__ for kind in known)
        expected = f"servax.perturbation.{', '.join(names)} or {last} (the class)"
        raise SettingError("norm", norm, expected)


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
