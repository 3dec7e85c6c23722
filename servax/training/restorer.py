"""Trains a network that gives back inputs that were distorted: a purifier, a denoiser.

A step starts from the gradient of the loss at the network's output. Adam, with a linear warm-up and
gradient clipping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import Dataset
from servax.training.device import Compute
from servax.training.loop import Terms
from servax.training.seeding import generator
from servax.training.trainer import BatchSettings, NetworkTrainer


class RestorerSettings(BatchSettings, Protocol):
    """What is needed of the settings of a restorer's training."""

    @property
    def learning_rate(self) -> float:
        """Of Adam, after the warm-up."""

    @property
    def warmup_steps(self) -> int:
        """Steps over which the learning rate rises linearly from 0; 0 switches it off."""

    @property
    def clip_norm(self) -> float:
        """Largest Euclidean norm of the gradient; 0 switches clipping off."""


def check_restorer(settings: RestorerSettings) -> None:
    """Refuse what no restorer's training can use.

    Raises:
        SettingError: A value is outside its rule.
    """
    s = settings
    if s.batch_size < 2:
        raise SettingError("batch_size", s.batch_size, "a whole number of at least 2")
    if not 0 < s.learning_rate <= 1:
        raise SettingError("learning_rate", s.learning_rate, "a number in (0, 1]")
    if s.warmup_steps < 0:
        raise SettingError("warmup_steps", s.warmup_steps, "a whole number of at least 0")
    if not s.clip_norm >= 0:
        raise SettingError("clip_norm", s.clip_norm, "a number of at least 0")


Settings = TypeVar("Settings", bound=RestorerSettings)


class RestorerTrainer(NetworkTrainer[Settings], ABC):
    """A restorer in training; one of a kind adds `_step`, which distorts, and `validate`.

    Args:
        network: From (B, 1, M, F) to the same shape.
        train: Training speakers.
        validation: Validation speakers.
        settings: How to train.
        seed: Seeds the batches and the distortion.
        compute: Device and precision.
    """

    distortion: ClassVar[str]
    """Seeds the distortion of an epoch together with `seed`."""

    def __init__(
        self,
        network: nn.Module,
        train: Dataset,
        validation: Dataset,
        settings: Settings,
        *,
        seed: int,
        compute: Compute | None = None,
    ) -> None:
        super().__init__(network, train, validation, settings, seed=seed, compute=compute)
        self._optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        self._steps_done = 0
        self._called = self.team.parallel(self.network)

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Train on every utterance once; return the mean of each loss term."""
        self.network.train()
        draws = generator(self.seed, self.distortion, epoch)
        order = self._order(epoch)
        sums: Terms = {}
        for positions in order:
            batch = self._train.batch(positions, self.device)
            for name, value in self._step(batch.x, draws).items():
                sums[name] = sums.get(name, 0.0) + value
            tick()
        return {f"train/{name}": value / len(order) for name, value in sums.items()}

    @abstractmethod
    def _step(self, x: Tensor, draws: torch.Generator) -> Terms:
        """Distort one batch x (B, 1, M, F), move the network, return the loss terms."""

    def _move(self, output: Tensor, gradient: Tensor) -> None:
        """Move the network along the gradient (B, 1, M, F) of the whole loss at its output."""
        s = self.settings
        self._steps_done += 1
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(self._steps_done)
        self._optimiser.zero_grad(set_to_none=True)
        output.backward(gradient)  # type: ignore[no-untyped-call]
        if s.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), s.clip_norm)
        self._optimiser.step()

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        s = self.settings
        return s.learning_rate * (min(1.0, step / s.warmup_steps) if s.warmup_steps else 1.0)

    def state(self) -> dict[str, Any]:
        """Return weights, optimiser state and the number of steps done."""
        return super().state() | {"steps_done": self._steps_done}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        super().load_state(state)
        self._steps_done = state["steps_done"]
