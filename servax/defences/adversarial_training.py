"""Trains a recogniser by iterations: a plain part, then an objective with adversarial inputs.

All models of a fold share the plain part, so it is trained once and each objective goes on from its
state. Batches, masks, shifts and attacks follow from (seed, iteration) alone: plain part and
objective in two runs, with any interruption, end with the weights of one run, bit for bit on one
machine. The schedule of [18] (Ren et al. 2020) is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from servax.defences.adversarial_objectives import Criterion, Objective
from servax.errors import ServaxError, SettingError
from servax.features import Batch, Dataset, SpecAugment
from servax.kinds import COUNT, Choice, Rules
from servax.models import VGG16
from servax.training import (
    ClassifierTrainer,
    ClassifierTraining,
    Compute,
    Schedule,
    Terms,
    class_share,
    generator,
    global_seed,
)

Decay = Literal["none", "cosine"]


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(ClassifierTraining):
    """Settings of an adversarial training; the defaults are those of [18] (Ren et al. 2020).

    [18] counts iterations, not epochs, trains the first of them without adversarial inputs, and
    keeps the last weights. Its learning rate never falls: its published code reads "every 100
    iterations times .9" but compares in a way that is never true. Weight decay, class weights,
    SpecAugment and shifts are not in [18]; they are off by default, and one can give the model the
    very training that the undefended one had (`SCHEDULES["short"]`).
    """

    iterations: int = 10_000
    """Training steps in all."""
    plain_iterations: int = 1_000
    """The first of them, with plain cross-entropy on clean input."""
    decay: Decay = "none"
    """`cosine` lets the learning rate fall to 0 over all iterations."""
    weight_decay: float = 0.0
    class_weights: bool = False
    shift: bool = False
    augment: SpecAugment | None = None

    RULES: ClassVar[Rules] = {
        "iterations": COUNT,
        "decay": Choice(("none", "cosine")),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.plain_iterations < self.iterations:
            raise SettingError(
                "plain_iterations",
                self.plain_iterations,
                f"a whole number of at least 0 and below iterations ({self.iterations})",
            )


SCHEDULES: dict[str, AdversarialTraining] = {
    "ren2020": AdversarialTraining(),
    "short": AdversarialTraining(
        iterations=392,
        plain_iterations=280,
        decay="cosine",
        weight_decay=1e-4,
        class_weights=True,
        shift=True,
        augment=SpecAugment(),
    ),
}
"""`ren2020` is [18]'s; `short` is for a CPU: with the 448 training utterances of a RAVDESS fold,
ten epochs of plain and four of adversarial training, otherwise as recognisers are trained here."""


class AdversarialTrainer(ClassifierTrainer[AdversarialTraining]):
    """One part of an adversarial training, to be driven by `servax.training.fit`.

    An epoch of `fit` is a chunk of as many iterations as there are batches in the training part;
    the last chunk is shorter. The last weights are kept, as in [18].

    Args:
        network: Recogniser to train.
        train: Training speakers.
        validation: Validation speakers; they are measured, and decide nothing.
        objective: What to minimise in iterations [plain_iterations, iterations), from the state
            that the plain part ended with (`load_state`). None trains the plain part,
            [0, plain_iterations).
        settings: How to train.
        seed: Seeds batches, masks, shifts and attacks.
        compute: Device and precision.

    Raises:
        CorpusError: A class has no training utterance.
    """

    purpose = "adversarial"
    network: VGG16

    def __init__(
        self,
        network: VGG16,
        train: Dataset,
        validation: Dataset,
        objective: Objective | None,
        settings: AdversarialTraining,
        *,
        seed: int,
        compute: Compute | None = None,
    ) -> None:
        self.objective = objective
        plain, last = settings.plain_iterations, settings.iterations
        self.first, self.last = (0, plain) if objective is None else (plain, last)
        self._done = 0  # iterations that the weights have behind them
        super().__init__(network, train, validation, settings, seed=seed, compute=compute)

    def _whole(self) -> nn.Module:
        return _Loss(self.network, self.objective)

    @property
    def epochs(self) -> int:
        """How many chunks `fit` has to run; 0 for a plain part without iterations."""
        return math.ceil((self.last - self.first) / self.steps_per_epoch())

    def schedule(self) -> Schedule:
        """Return a schedule that runs all chunks and keeps the last weights.

        Raises:
            SettingError: There is no iteration to run.
        """
        # The count of iterations rises in every chunk, so the last one is the best.
        return Schedule(self.epochs, self.epochs, monitor="train/iteration", mode="max")

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Train one chunk; return mean loss, iterations done and the last learning rate.

        Raises:
            ServaxError: The weights are not those that this chunk goes on from.
        """
        start = self.first + epoch * self.steps_per_epoch()
        stop = min(start + self.steps_per_epoch(), self.last)
        if self._done != start:
            raise ServaxError(
                f"the network has {self._done} iterations behind it, expected {start}: give the "
                "trainer the state of the plain part (load_state) before an objective is trained."
            )
        self.network.train()
        total = 0.0
        for iteration in range(start, stop):
            number, step = divmod(iteration, self.steps_per_epoch())
            batch = self._train.batch(self._order(number)[step], self.device)
            draws = generator(self.seed, "augment", iteration)
            total += self._train_batch(batch, draws, iteration)["loss"]
            tick()
        return {
            "train/loss": total / (stop - start),
            "train/iteration": float(stop),
            "train/learning_rate": self._learning_rate(stop - 1),
        }

    def _train_batch(self, batch: Batch, draws: torch.Generator, epoch: float) -> Terms:
        """Move the network by one batch; `epoch` is the iteration, since an epoch is one."""
        iteration, team = int(epoch), self.team
        batch = Batch(self._augmented(batch, draws), batch.y, batch.positions)
        share = team.share(len(team.cut(batch.y)), len(batch.y))
        inner = team.draws(generator(self.seed, "attack", iteration), len(batch.y))
        # Cross-entropy is a mean over class weights, what else is in a loss one over utterances.
        ratio = class_share(team, self._loss, batch.y) / share if share else 1.0

        def criterion(logits: Tensor, y: Tensor) -> Tensor:
            loss: Tensor = self._loss(logits, y) * ratio
            return loss

        with global_seed(self.seed, "iteration", iteration), self.compute.autocast():
            loss = self._called(team.cut(batch.x), team.cut(batch.y), criterion, inner)
        self._descend((loss * share).backward, self._learning_rate(iteration))
        self._done = iteration + 1
        return team.means({"loss": loss}, share)

    def _answering(self, epoch: int) -> nn.Module:
        if self.objective is None:
            return self.network
        return self.objective.answering(self.network, generator(self.seed, "validation", epoch))

    def state(self) -> dict[str, Any]:
        """Return weights, optimiser state and the number of iterations done."""
        return super().state() | {"iterations_done": self._done}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        super().load_state(state)
        self._done = state["iterations_done"]

    def _learning_rate(self, iteration: int) -> float:
        s = self.settings
        if s.decay == "none":
            return s.learning_rate
        return s.learning_rate * 0.5 * (1.0 + math.cos(math.pi * iteration / s.iterations))


class _Loss(nn.Module):
    """From a batch to its loss; wrapped whole, since objectives call parts of a network too."""

    def __init__(self, network: VGG16, objective: Objective | None) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(
        self, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return the scalar loss of x (B, 1, M, F) and classes y (B,)."""
        if self.objective is None:
            return criterion(self.network(x), y)
        return self.objective.loss(self.network, x, y, criterion, generator)
