"""A model under check, with clean inputs that it should get right and the attack it faces."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from servax.attacks import PGD, logits_of
from servax.attacks.gradient import STRIDE
from servax.defences import ExpectationOverDraws
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import draws_needed, predict
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.evaluation.trial import Repeats, repeats
from servax.models import evaluating
from servax.perturbation import Bounds

VOTES = 5
"""Passes that vote on each answer of a random system."""
MOST_STEPS = 30
"""Most steps of the attack."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A model under check, and clean inputs that it should get right."""

    system: System
    """Who is under check."""
    x: Tensor
    """Clean inputs (B, ...)."""
    y: Tensor
    """True classes (B,)."""
    facing: nn.Module | None = None
    """What attackers differentiate, where that is not the model: its mean over draws."""
    eot_draws: int = 1
    """Draws per gradient in the attacks on it, more than one for a random model."""
    attack: PGD = field(default_factory=PGD)
    """What it is attacked with; says the ball and the bounds."""
    mask: Tensor | None = None
    """Where an input may change."""
    longer: Tensor | None = None
    """The same utterances with something behind them; a model may refuse the length."""
    batch_size: int = 64
    """Inputs per forward pass, where a check does not ask for more."""
    inner_points: int = 100
    """Inner points of a readout of the planted test."""
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    """Draws whatever is random in a check or an attack."""

    @classmethod
    def of(
        cls,
        system: System,
        dataset: EvaluationSet,
        suite: Suite,
        *,
        batch_size: int,
        generator: torch.Generator,
    ) -> Case:
        """Return a few utterances, and what an attacker faces who knows if answers are random.

        They are the first that a system gets right, any where there are none. Behind the third
        stands something else: silence behind a waveform, the same sound backwards in the frames
        that a front-end filled up; none where a log-Mel is full.
        """
        count, budget = suite.effort.probes, suite.budget.same_for_all
        some, few = slice(0, 4 * count), slice(0, batch_size)
        size = min(count, batch_size)
        right = predict(system.model, dataset.x[some], batch_size=size) == dataset.y[some]
        rows = torch.nonzero(right).squeeze(1)[:count].clone()
        rows = rows if len(rows) else torch.arange(min(count, len(dataset)))
        x, y, longer = dataset.x[rows], dataset.y[rows], None
        mask = None if dataset.mask is None else dataset.mask[rows]
        if x.ndim == 2:
            longer = nn.functional.pad(x, (0, x.shape[1] // 4))
        elif mask is not None:
            longer = torch.where(mask, x, x.flip(-1))
        faced, eot_draws = system.model, 1
        if system.gradients and repeats(system.model, x[few]).random:
            eot_draws = draws_needed(system.model, x[few], y[few])
            faced = ExpectationOverDraws(system.model, eot_draws)
        attack = PGD(
            epsilon=budget.radius,
            norm=budget.ball,
            step=STRIDE * budget.radius,
            steps=steps_of(suite),
            bounds=system.bounds,
            early_stop=True,
        )
        return cls(
            system=system,
            x=x,
            y=y,
            facing=_InParts(faced, batch_size) if len(x) > batch_size else faced,
            eot_draws=eot_draws,
            attack=attack,
            mask=mask,
            longer=longer,
            batch_size=batch_size,
            inner_points=inner_points_of(suite),
            generator=generator,
        )

    @property
    def model(self) -> nn.Module:
        """From inputs (B, ...) to logits (B, K)."""
        return self.system.model

    @property
    def faced(self) -> nn.Module:
        """What attackers differentiate."""
        return self.model if self.facing is None else self.facing

    @property
    def votes(self) -> int:
        """Passes that vote on each answer."""
        return VOTES if self.eot_draws > 1 else 1

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest value of an input."""
        return self.attack.bounds

    @cached_property
    def seen(self) -> Repeats:
        """How far its answers to the same inputs differ."""
        return repeats(self.model, self.x[: self.batch_size])

    @cached_property
    def attacked(self) -> Tensor:
        """What the attack makes of the inputs."""
        return self.attack(self.faced, self.x, self.y, generator=self.generator, mask=self.mask)

    def first(self, count: int) -> Case:
        """Return the case of its first utterances only."""
        if count >= len(self.x):
            return self
        longer = None if self.longer is None else self.longer[:count]
        mask = self.mask[:count] if self.mask is not None and len(self.mask) > 1 else self.mask
        return replace(self, x=self.x[:count], y=self.y[:count], longer=longer, mask=mask)


def steps_of(suite: Suite) -> int:
    """Return the steps of the attack of a case."""
    return min(MOST_STEPS, suite.effort.pgd)


def inner_points_of(suite: Suite) -> int:
    """Return how many inner points a readout of the planted test gets."""
    return 20 if suite.tier == "smoke" else 100


def votes(model: nn.Module, x: Tensor, draws: int) -> Tensor:
    """Return for each class how many of `draws` passes predict it, (B, K)."""
    with evaluating(model), torch.no_grad():
        passes = [logits_of(model, x) for _ in range(draws)]
    return torch.stack([nn.functional.one_hot(p.argmax(1), p.shape[1]) for p in passes]).sum(dim=0)


class _InParts(nn.Module):
    """The same model, asked for at most so many inputs at once."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of inputs (B, ...)."""
        return torch.cat([logits_of(self.model, part) for part in torch.split(x, self.size)])
