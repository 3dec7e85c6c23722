"""What all trainers have in common: a network, its device, one loop over batches, one step.

`NetworkTrainer` is what any training is, `RestorerTrainer` that of a network which gives back
inputs that were distorted: a purifier, a denoiser.
"""

from __future__ import annotations

import copy
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import ServaxError, unwritable
from servax.features import Batch, Dataset
from servax.kinds import NUMBER, Rule, Rules
from servax.training.device import Compute
from servax.training.loop import Terms
from servax.training.seeding import derive, epoch_order, generator
from servax.training.team import current

STEPS: Rules = {
    "batch_size": Rule("a whole number of at least 2", lambda count: count >= 2),
    "learning_rate": Rule("a number in (0, 1]", lambda rate: 0 < rate <= 1),
}
"""What the settings of any training say of its steps."""


class BatchSettings(Protocol):
    """What is needed of the settings of any training."""

    @property
    def batch_size(self) -> int:
        """Utterances per step."""


Settings = TypeVar("Settings", bound=BatchSettings)


class NetworkTrainer(ABC, Generic[Settings]):
    """A network in training; with `validate` it is `Trainable`.

    A trainer of one kind names its `purpose` and its `distortion`, makes the optimiser and does one
    step.

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
    distortion: ClassVar[str]
    """Seeds what an epoch draws for its inputs together with `seed`."""

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
        self._optimiser = self._new_optimiser()
        self._called = self.team.parallel(self._whole())

    @abstractmethod
    def _new_optimiser(self) -> torch.optim.Optimizer:
        """Return the optimiser of the network, which is where it computes."""

    def _whole(self) -> nn.Module:
        """Return what a step calls: the network, or a module around it."""
        return self.network

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Train on every utterance once; return the mean of each loss term."""
        self.network.train()
        draws = generator(self.seed, self.distortion, epoch)
        order = self._order(epoch)
        sums: Terms = {}
        for number, positions in enumerate(order):
            batch = self._train.batch(positions, self.device)
            terms = self._train_batch(batch, draws, epoch + number / len(order))
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            tick()
        return {f"train/{name}": value / len(order) for name, value in sums.items()}

    @abstractmethod
    def _train_batch(self, batch: Batch, draws: torch.Generator, epoch: float) -> Terms:
        """Move the network by one batch, `epoch` epochs into the training; return the terms."""

    def _descend(self, backward: Callable[[], object], rate: float, clip_norm: float = 0.0) -> None:
        """Take one step of the optimiser along the gradients that `backward` leaves.

        A group of weights that is `faster` gets so many times the rate.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group.get("faster", 1.0)
        self._optimiser.zero_grad(set_to_none=True)
        backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), clip_norm)
        self._optimiser.step()

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
    rules = {
        **STEPS,
        "warmup_steps": NUMBER,
        "clip_norm": Rule("a number of at least 0", lambda norm: norm >= 0),
    }
    for name, rule in rules.items():
        rule.check(name, getattr(settings, name))


Restoring = TypeVar("Restoring", bound=RestorerSettings)


class RestorerTrainer(NetworkTrainer[Restoring]):
    """A restorer, from (B, 1, M, F) to the same shape, in training.

    One of a kind adds `_step`, which distorts, and `validate`. A step starts from the gradient of
    the loss at the network's output. Adam, with a linear warm-up and gradient clipping.
    """

    _steps_done = 0

    def _new_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)

    def _train_batch(self, batch: Batch, draws: torch.Generator, epoch: float) -> Terms:
        del epoch
        return self._step(batch.x, draws)

    @abstractmethod
    def _step(self, x: Tensor, draws: torch.Generator) -> Terms:
        """Distort one batch x (B, 1, M, F), move the network, return the loss terms."""

    def _move(self, output: Tensor, gradient: Tensor) -> None:
        """Move the network along the gradient (B, 1, M, F) of the whole loss at its output."""
        self._steps_done += 1
        self._descend(
            lambda: output.backward(gradient),  # type: ignore[no-untyped-call]
            self._rate(self._steps_done),
            self.settings.clip_norm,
        )

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


class Shelf:
    """Keeps tensors of any shapes, in the order in which they were put, in a file.

    What validation is measured on is made once and as large as the validation part; in memory it
    would grow with the corpus. The file has no name and is gone with its process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="servax-")  # noqa: SIM115  closed below
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[int, torch.Size, np.dtype]] = []

    def __len__(self) -> int:
        return len(self._places)

    def put(self, x: Tensor) -> None:
        """Keep a copy of a tensor; bfloat16, which NumPy has not, comes back as float32.

        Raises:
            ServaxError: The disk is full.
        """
        values = (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()
        try:
            offset = self._file.seek(0, 2)
            self._file.write(values.tobytes())
            self._file.flush()
        except OSError as error:
            raise ServaxError(f"{tempfile.gettempdir()}: {unwritable(error)}.") from None
        self._places.append((offset, x.shape, values.dtype))

    def get(self, number: int, device: torch.device | None = None) -> Tensor:
        """Return the tensor that was put as `number`, from 0, on `device` (default: CPU)."""
        offset, shape, dtype = self._places[number]
        self._file.seek(offset)
        read = bytearray(self._file.read(dtype.itemsize * shape.numel()))
        return torch.from_numpy(np.frombuffer(read, dtype=dtype)).reshape(shape).to(device)
