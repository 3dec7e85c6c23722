"""Trains a recogniser: cross-entropy with class weights, SpecAugment, early stopping.

Paper, section 3.2: Adam with learning rate 1e-3, early stopping on the validation speakers. Class
weights, SpecAugment, weight decay and the cosine schedule are ours (docs/method.md: a recogniser
trained without them stays below what CNNs reach). The same training with another seed gives the
feature extractor F.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from servax.errors import CorpusError
from servax.features import Batch, Dataset, SpecAugment, augmented
from servax.kinds import Rule, Rules, check_kind, check_types
from servax.models import channels_last, classes_of, evaluating
from servax.training.device import Compute
from servax.training.loop import Schedule, Terms
from servax.training.team import Team
from servax.training.trainers import STEPS, NetworkTrainer


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """Settings of any recogniser's training; a kind adds how long it takes."""

    batch_size: int = 16
    """Utterances per step."""
    learning_rate: float = 1e-3
    """Of Adam (paper), at the start."""
    weight_decay: float = 1e-4
    """Decoupled weight decay (AdamW)."""
    class_weights: bool = True
    """Weigh each class by the inverse of its share of the training utterances."""
    augment: SpecAugment | None = field(default_factory=SpecAugment)
    """Masks on the training input; none switches them off."""
    shift: bool = True
    """Roll each training utterance by a random number of frames."""

    RULES: ClassVar[Rules] = {
        **STEPS,
        "weight_decay": Rule("a number in [0, 1)", lambda decay: 0 <= decay < 1),
    }

    def __post_init__(self) -> None:
        check_types(self)
        augment: Any = self.augment
        if isinstance(augment, dict):  # settings read back from JSON arrive as plain dicts
            object.__setattr__(self, "augment", SpecAugment(**augment))
        elif augment is not None:
            check_kind("augment", augment, SpecAugment)


@dataclass(frozen=True, kw_only=True)
class RecogniserTraining(ClassifierTraining):
    """Settings of a recogniser's training; its learning rate follows a cosine."""

    epochs: int = 60
    """Most epochs."""
    patience: int = 20
    """Epochs without a better validation UAR before training stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schedule()

    def schedule(self) -> Schedule:
        """Return when training stops and which epoch is kept."""
        return Schedule(self.epochs, self.patience, monitor="validation/uar", mode="max")


Settings = TypeVar("Settings", bound=ClassifierTraining)


class ClassifierTrainer(NetworkTrainer[Settings]):
    """A recogniser in training by cross-entropy; one of a kind adds how a batch moves it.

    Raises:
        CorpusError: A class has no training utterance.
    """

    distortion = "augment"

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
        weights = class_weights(train)  # also without them every class must be there
        self._loss = nn.CrossEntropyLoss(weights if settings.class_weights else None).to(
            self.device
        )

    def _new_optimiser(self) -> torch.optim.Optimizer:
        s = self.settings
        # Channels-last memory: the same numbers up to rounding, a third less time on a CPU.
        weights = channels_last(self.network).parameters()
        return torch.optim.AdamW(weights, lr=s.learning_rate, weight_decay=s.weight_decay)

    def _augmented(self, batch: Batch, draws: torch.Generator) -> Tensor:
        """Return the batch's x (B, 1, M, F) as the network is trained on it."""
        return augmented(batch.x, draws, shift=self.settings.shift, augment=self.settings.augment)

    def _answering(self, epoch: int) -> nn.Module:
        """Return what answers for the network after an epoch."""
        del epoch
        return self.network

    def validate(self, epoch: int) -> Terms:
        """Return loss and UAR on the validation speakers."""
        model = self._answering(epoch)
        logits, y = predict(model, self._validation, 64, compute=self.compute)
        loss = nn.functional.cross_entropy(logits, y)
        hits = classes_of(logits) == y
        recalls = [float(hits[y == c].float().mean()) for c in y.unique()]  # type: ignore[no-untyped-call]
        return {"validation/loss": float(loss), "validation/uar": sum(recalls) / len(recalls)}


class RecogniserTrainer(ClassifierTrainer[RecogniserTraining]):
    """One recogniser in training, to be driven by `servax.training.fit`."""

    purpose = "recogniser"

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Train on every utterance once; return the mean loss and the last learning rate."""
        terms = super().train_epoch(epoch, tick)
        return terms | {"train/learning_rate": self._optimiser.param_groups[0]["lr"]}

    def _train_batch(self, batch: Batch, draws: torch.Generator, epoch: float) -> Terms:
        s, team = self.settings, self.team
        x, y = team.cut(self._augmented(batch, draws)), team.cut(batch.y)
        share = class_share(team, self._loss, batch.y)
        with self.compute.autocast():
            loss = self._loss(self._called(x), y)
        decay = 0.5 * (1.0 + math.cos(math.pi * epoch / s.epochs))
        self._descend((loss * share).backward, s.learning_rate * decay)
        return team.means({"loss": loss}, share)


def class_weights(dataset: Dataset) -> Tensor:
    """Return N / (C * count) for each class, (C,).

    Raises:
        CorpusError: A class has no utterance, so that it cannot be learned.
    """
    counts = torch.bincount(dataset.labels, minlength=dataset.classes)
    if (counts == 0).any():
        missing = [dataset.corpus.labels[int(c)] for c in (counts == 0).nonzero()]
        raise CorpusError(
            f"{dataset.corpus.name}: no training utterance is labelled {' or '.join(missing)}, "
            "expected some of every label; choose other folds or another label scheme."
        )
    return len(dataset) / (dataset.classes * counts.float())


def class_share(team: Team, loss: nn.CrossEntropyLoss, y: Tensor) -> float:
    """Return the share (`Team.share`) of this process's utterances in the loss of a batch.

    Args:
        team: Who takes which utterances.
        loss: A weighted mean: an utterance counts as much as its class weighs.
        y: Classes (B,) of the whole batch.
    """
    if team.alone or loss.weight is None:
        return team.share(len(team.cut(y)), len(y))
    weights = loss.weight[y].double()
    return team.share(float(team.cut(weights).sum()), float(weights.sum()))


@torch.inference_mode()
def predict(
    network: nn.Module, dataset: Dataset, batch_size: int, *, compute: Compute | None = None
) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) and labels (N,) of a dataset, on the CPU, in evaluation mode."""
    compute = compute or Compute()
    device = compute.resolve()
    logits = []
    with evaluating(network.to(device)):
        for batch in dataset.batches(batch_size, device):
            with compute.autocast():
                logits.append(network(batch.x).float().cpu())
    return torch.cat(logits), dataset.labels
