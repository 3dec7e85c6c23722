"""`Outside`: any attack of foolbox, ART or torchattacks, named by its class path, as one of ours.

Whatever a library does, this holds: the model is in evaluation mode and sees its own bounds,
elements that may not change have no gradient and keep their values, utterances that are wrong
already never enter, random numbers come from the generator and the global ones are as they were,
and what comes back is inside the ball and the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from servax.attacks.base import BallAttack
from servax.attacks.outside.art import Toolbox
from servax.attacks.outside.foolbox import Foolbox
from servax.attacks.outside.library import Library, Task
from servax.attacks.outside.quiet import quiet, seeded, without_gradients_of
from servax.attacks.outside.seen import Seen, UnknownRowsError, finite
from servax.attacks.outside.starts import starting_points
from servax.attacks.outside.torchattacks import Torchattacks
from servax.attacks.problem import Problem
from servax.errors import ServaxError, SettingError
from servax.kinds import renamed
from servax.perturbation import into_reach

LIBRARIES: tuple[Library, ...] = (Foolbox(), Toolbox(), Torchattacks())
"""The packages that a path may lead into; nothing else is imported."""
ROUNDING = 1e-5
"""Share of the radius that rounding may add to a change; that much is taken back."""


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class Outside(BallAttack):
    """An attack of another library.

    A fixed-radius attack is given the radius. A minimum-norm attack (DeepFool, Carlini & Wagner,
    FMN, HopSkipJump, ...) looks for the nearest input: where that is further away than the radius,
    the attack has failed, and the clean input is its result. `distances` tells how far it is.

    Example:
        >>> Outside(path="foolbox.attacks.LinfPGD", settings={"steps": 10}).epsilon
        0.02
    """

    path: str
    """Where the attack class is, below `foolbox.attacks`, `art.attacks.evasion`, `torchattacks`."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else its constructor is given. The library sees inputs in [0, 1]: lengths among these
    (steps, step sizes) are shares of the width of `bounds`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        attack = self.attack
        self.library.check(attack, norm=self.norm, targeted=self.targeted)
        self.library.check_settings(attack, self.settings)

    @property
    def library(self) -> Library:
        """The library that the path leads into."""
        for library in LIBRARIES:
            if self.path.startswith(f"{library.package}."):
                return library
        packages = ", ".join(library.package for library in LIBRARIES)
        raise SettingError("path", self.path, f"an attack class below one of {packages}")

    @property
    def attack(self) -> type:
        """The class at the path."""
        return self.library.find(self.path)

    @property
    def minimum_norm(self) -> bool:
        """Whether the attack looks for the nearest input, instead of the worst one in the ball."""
        return not self.library.fixed(self.attack)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the attack's result: a library does not show its steps."""
        found = self._found(problem, radius=self.epsilon)
        if self.minimum_norm:
            distance = problem.within(self.ball).norm(found - problem.x)
            near = distance <= self.epsilon * (1 + ROUNDING)
            found = torch.where(_per_input(near, found), found, problem.x)
        yield into_reach(problem.x, found, problem.within(self.ball), problem.bounds)

    def distances(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return how far the nearest input is that fools the model, as far as the attack knows.

        The radius has no part in it. Arguments as for a call.

        Returns:
            Norms of the changes (B,), in units of the input: 0 for an utterance that needs no
            change, infinite where none was found.

        Raises:
            SettingError: The attack works inside a radius, or see a call.
        """
        if not self.minimum_norm:
            raise SettingError(
                "path", self.path, "a minimum-norm attack: others do not look for the nearest input"
            )
        if not all(map(math.isfinite, self.bounds)):
            raise SettingError("bounds", self.bounds, "finite ones, to look as far as they reach")
        with self.facing(model, x, y, generator=generator, mask=mask) as problem:
            found = self._found(problem, radius=None)
            fooled = problem.fooled(problem.scores(found))
        return self.ball.norm(found - problem.x).masked_fill(~fooled, float("inf"))

    def _found(self, problem: Problem, *, radius: float | None) -> Tensor:
        """Return what the library found (B, ...), clean inputs where it failed."""
        problem = finite(problem, reach=max(radius or 0.0, 1e-3))
        seed = int(torch.randint(2**31 - 1, (1,), generator=problem.random()))
        logits = problem.scores(problem.x)
        waiting = ~problem.fooled(logits)
        starts = None
        if self.library.needs_starts(self.attack):
            starts, have = starting_points(problem)
            waiting &= have
        rows = waiting.nonzero().flatten()
        found = problem.x.clone()
        if len(rows):
            run = _Run(self, classes=logits.shape[1], radius=radius, seed=seed)
            begin = None if starts is None else starts[rows]
            found[rows] = run.of(problem.at(rows), begin)
        return found


class _Run:
    """One call of a library, for a batch or for one utterance after another."""

    def __init__(self, outside: Outside, *, classes: int, radius: float | None, seed: int) -> None:
        self.outside = outside
        self.classes = classes
        self.radius = radius
        self.seed = seed

    def of(self, problem: Problem, starts: Tensor | None) -> Tensor:
        """Return what the library makes of all utterances, together if it can."""
        if len(problem.x) > 1 and not self.outside.library.alone(self.outside.attack):
            try:
                return self._together(problem, starts, self.seed)
            except UnknownRowsError:
                pass
            except ServaxError:
                raise
            except Exception:  # a library may raise anything; one by one tells on which
                pass
        return self._one_by_one(problem, starts)

    def _one_by_one(self, problem: Problem, starts: Tensor | None) -> Tensor:
        """Return what it makes of each; those that it raises an error on stay clean."""
        found, errors = problem.x.clone(), []
        for row in range(len(problem.x)):
            this = torch.tensor([row], device=problem.x.device)
            begin = None if starts is None else starts[this]
            try:
                found[this] = self._together(problem.at(this), begin, self.seed + row)
            except ServaxError:
                raise
            except Exception as error:  # a library may raise anything
                # A walk along the boundary asserts that it is still there; rounding may lose it.
                if not (isinstance(error, AssertionError) and begin is not None):
                    errors.append(error)
        if len(errors) == len(problem.x):
            raise self._told(errors[0]) from errors[0]
        return found

    def _told(self, error: Exception) -> ServaxError:
        """Return the refusal that tells a library's error."""
        return ServaxError(
            f"{self.outside.path} failed on every utterance: {type(error).__name__}: {error}"
        )

    def _together(self, problem: Problem, starts: Tensor | None, seed: int) -> Tensor:
        """Return what the library makes of one batch."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            seen = Seen(problem)
            x = seen.inside(problem.x.clone())
            task = Task(
                model=seen,
                x=x,
                y=problem.y.clone(),
                classes=self.classes,
                norm=self.outside.norm,
                radius=None if self.radius is None else self.radius / seen.width,
                targeted=problem.targeted,
                seed=seed,
                starts=None if starts is None else seen.inside(starts),
            )
            with quiet(), seeded(seed), without_gradients_of(problem.model):
                found = self.outside.library.run(self.outside.attack, self.outside.settings, task)
            return seen.changed(found, x)


def _per_input(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) shaped to go with a tensor (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))
