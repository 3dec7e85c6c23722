"""What all trainers have in common: a network, its device, its batches, what a checkpoint holds."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from servax.features import Dataset
from servax.training.device import Compute
from servax.training.seeding import derive, epoch_order
from servax.training.team import current


class BatchSettings(Protocol):
    """What is needed of the settings of any training."""

    @property
    def batch_size(self) -> int:
        """Utterances per step."""


Settings = TypeVar("Settings", bound=BatchSettings)


class NetworkTrainer(Generic[Settings]):
    """A network in training; with `train_epoch` and `validate` it is `Trainable`.

    A trainer of one kind names its `purpose` and makes the optimiser.

    Args:
        network: What to train.
        train: Training speakers.
        validation: Validation speakers.
        settings: How to train.
        seed: Seeds the batches, and all that the trainer draws.
        compute: Device and precision.
    """

    purpose: ClassVar[str]
    """Seeds the order of batches together with `seed`: kinds of training do not share theirs."""
    _optimiser: torch.optim.Optimizer

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
        self.settings = settings
        self.seed = seed
        self.team = current()
        self.compute = self.team.place(compute or Compute())
        self.device = self.compute.resolve()
        self.network = network.to(self.device)
        self._train, self._validation = train, validation

    def steps_per_epoch(self) -> int:
        """Return the number of training steps of an epoch."""
        return len(self._order(0))

    def state(self) -> dict[str, Any]:
        """Return weights, optimiser state and what else the next epoch depends on."""
        return {
            "network": copy.deepcopy(self.network.state_dict()),
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.network.load_state_dict(state["network"])
        # A copy, since an optimiser trains on in the tensors it was given, and several trainings
        # may go on from one state.
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))

    def weights(self) -> dict[str, Any]:
        """Return a copy of the network's weights."""
        return copy.deepcopy(self.network.state_dict())

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Put back what `weights` returned."""
        self.network.load_state_dict(weights)
        self.network.eval()

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        seed = derive(self.seed, self.purpose)
        return epoch_order(len(self._train), self.settings.batch_size, seed=seed, epoch=epoch)
