"""Trains the head of a speech encoder: a penalised logistic regression over cached statistics.

The encoder stays as it is, so each sound goes through it once, as recorded and in a few noisy
copies, and what its layers say of it is kept in the feature cache (`encoder_statistics`).

The loss is cross-entropy with class weights and an L2 penalty on the linear layer and on the logits
of the layers' weights, so that neither is drawn to a single layer. It is minimised by L-BFGS to its
end: from the same statistics come the same weights. The validation speakers choose the penalty,
then they are trained on too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import Dataset
from servax.kinds import check_types
from servax.models import EncoderHead, classes_of
from servax.runtime.host import one_thread
from servax.training.encoder_statistics import NoisyCopy
from servax.training.recogniser import class_weights

AS_IT_IS: Any = nn.Identity()
"""The scale of statistics, which a head standardises itself."""
STEPS = 100
"""Most steps of L-BFGS; it stops before where nothing changes any more."""


@dataclass(frozen=True)
class HeadTraining:
    """Settings of the training of a head."""

    draws: int = 2
    """Noisy copies of each training utterance beside the recording."""
    lowest_snr_db: float = 5.0
    """Lowest signal-to-noise ratio of a copy, in dB."""
    highest_snr_db: float = 40.0
    """Highest signal-to-noise ratio of a copy, in dB."""
    shift_seconds: float = 0.5
    """Largest shift of a copy: so much is cut from its start, or silence put before it."""
    penalties: tuple[float, ...] = (0.1, 0.03, 0.01)
    """L2 penalties that the validation speakers choose from."""

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.draws <= 100:
            raise SettingError("draws", self.draws, "a whole number from 0 to 100")
        if not self.lowest_snr_db <= self.highest_snr_db:
            expected = f"at most highest_snr_db ({self.highest_snr_db:g})"
            raise SettingError("lowest_snr_db", self.lowest_snr_db, expected)
        if not 0 <= self.shift_seconds <= 1:
            raise SettingError("shift_seconds", self.shift_seconds, "a number in [0, 1]")
        if not self.penalties or min(self.penalties) <= 0:
            raise SettingError("penalties", self.penalties, "numbers above 0")

    def copies(self, seed: int) -> list[NoisyCopy]:
        """Return how the noisy copies are made that a seed draws."""
        band = (self.lowest_snr_db, self.highest_snr_db, self.shift_seconds)
        return [NoisyCopy(*band, seed, number) for number in range(1, self.draws + 1)]


@dataclass(frozen=True)
class ChosenHead:
    """A head in training and how its penalty was chosen."""

    head: EncoderHead
    """Trained with the chosen penalty on training and validation speakers."""
    penalty: float
    """The chosen one."""
    uar: float
    """What the head of that penalty, of the training speakers alone, reached on the validation
    speakers, as recorded."""


def choose_head(
    train: Sequence[Dataset], validation: Sequence[Dataset], settings: HeadTraining
) -> ChosenHead:
    """Return the head that the validation speakers chose.

    Args:
        train: Statistics of the training speakers: as recorded, then of each copy.
        validation: The same of the validation speakers.
        settings: How to train.

    Raises:
        CorpusError: A class has no training utterance.
    """
    weights = class_weights(train[0])
    known, new = ([_statistics(each) for each in part] for part in (train, validation))
    y, y_new = train[0].labels, validation[0].labels
    tried = []
    for penalty in sorted(settings.penalties):
        head = fit_head(known, y, weights, penalty)
        tried.append((recall(head, new[0], y_new), penalty))
    uar, penalty = max(tried)  # of equal ones the largest
    everybody = [torch.cat(pair) for pair in zip(known, new, strict=True)]
    head = fit_head(everybody, torch.cat([y, y_new]), weights, penalty)
    return ChosenHead(head, penalty, uar)


def _statistics(dataset: Dataset) -> Tensor:
    """Return what was heard of all utterances of a dataset, (N, L, 2 D)."""
    return dataset.batch(np.arange(len(dataset))).x[:, 0]


@torch.no_grad()
def recall(head: EncoderHead, statistics: Tensor, y: Tensor) -> float:
    """Return the unweighted average recall of a head on statistics (N, L, 2 D) of classes (N,)."""
    hits = classes_of(head(statistics)) == y
    return float(torch.stack([hits[y == c].double().mean() for c in set(y.tolist())]).mean())


def fit_head(copies: Sequence[Tensor], y: Tensor, weights: Tensor, penalty: float) -> EncoderHead:
    """Return the head that minimises the penalised loss.

    Args:
        copies: Statistics (N, L, 2 D) of the same N utterances, recorded and noisy.
        y: Their classes (N,).
        weights: What an utterance of each class counts, (C,).
        penalty: L2, on the linear layer and on the logits of the layers' weights.
    """
    statistics, y = torch.cat(list(copies)), y.repeat(len(copies))
    head = EncoderHead(len(weights), statistics.shape[2] // 2, statistics.shape[1])
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    head.standardise(statistics)
    loss_of = nn.CrossEntropyLoss(weights)
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        squares = head.linear.weight.square().sum() + head.weights.square().sum()
        total: Tensor = loss_of(head(statistics), y) + penalty * squares
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with one_thread():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return head.eval()
