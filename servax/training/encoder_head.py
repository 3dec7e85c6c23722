"""Trains the head of a speech encoder: a penalised logistic regression over cached statistics.

The encoder stays as it is, so each sound goes through it once, as recorded and in a few noisy
copies, and what its layers say of it is kept in the feature cache (`encoder_statistics`).

The loss is cross-entropy with class weights and an L2 penalty on the linear layer and on the logits
of the layers' weights, so that neither is drawn to a single layer. It is minimised by L-BFGS to its
end: from the same statistics come the same weights. The validation speakers choose the penalty,
then they are trained on too.

A vaccinated head hears nothing without noise of one level (`servax.models.Noise`), and the variance
of its logits over copies of one utterance is penalised as well. To first order that is sigma^2
times the squared gradient of a logit in the sound, and what a small attack gains is its length
times that gradient. So this trains against the strongest attack on what is heard through noise, at
the price of no attack. Consistency regularisation (Jeong & Shin, NeurIPS 2020) does the same with a
divergence between the probabilities of the copies; a variance of logits does not fade where all
copies are sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import Dataset
from servax.kinds import NOT_NEGATIVE, Rules, check_types
from servax.models import EncoderHead, Noise, classes_of
from servax.runtime.host import one_thread
from servax.training.encoder_statistics import NoisyCopy
from servax.training.recogniser import class_weights

AS_IT_IS: Any = nn.Identity()
"""The scale of statistics, which a head standardises itself."""
STEPS = 100
"""Most steps of L-BFGS; it stops before where nothing changes any more."""
STEADINESS = 3.0
"""Weight of the variance of the logits of a vaccinated head (docs/recognisers.md)."""


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
    vaccinate_db: float | None = None
    """Level of each sound above the white noise that the recogniser will add to it, in dB; all
    copies are then made so, without a shift. None adds no noise."""
    steadiness: float = 0.0
    """Weight of the variance of the logits over the copies of an utterance."""

    RULES: ClassVar[Rules] = {"steadiness": NOT_NEGATIVE}

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
        if self.vaccinate_db is None and self.steadiness:
            raise SettingError("steadiness", self.steadiness, "0 without vaccinate_db")
        if self.vaccinate_db is not None:
            Noise(self.vaccinate_db)
            if self.draws < 2:
                raise SettingError("draws", self.draws, "at least 2 with vaccinate_db")

    @classmethod
    def vaccinated(cls, snr_db: float, draws: int = 6) -> HeadTraining:
        """Return the training of a head that hears everything through noise of one level.

        Args:
            snr_db: Level of each sound above the noise, in dB.
            draws: Noisy copies of each utterance.
        """
        return cls(draws=draws, vaccinate_db=snr_db, steadiness=STEADINESS)

    def copies(self, seed: int) -> list[NoisyCopy | None]:
        """Return how the copies are made that a seed draws; None is the recording itself."""
        numbers, level = range(1, self.draws + 1), self.vaccinate_db
        if level is not None:
            return [NoisyCopy(level, level, 0.0, seed, n, coloured=0.0) for n in numbers]
        band = (self.lowest_snr_db, self.highest_snr_db, self.shift_seconds)
        return [None, *(NoisyCopy(*band, seed, number) for number in numbers)]


@dataclass(frozen=True)
class ChosenHead:
    """A head in training and how its penalty was chosen."""

    head: EncoderHead
    """Trained with the chosen penalty on training and validation speakers."""
    of_training: EncoderHead
    """Trained with it on the training speakers alone."""
    penalty: float
    """The chosen one."""
    uar: float
    """What the head of that penalty, of the training speakers alone, reached on the validation
    speakers: as recorded, of a vaccinated one by the mean over all copies."""


def choose_head(
    train: Sequence[Dataset], validation: Sequence[Dataset], settings: HeadTraining
) -> ChosenHead:
    """Return the head that the validation speakers chose.

    Args:
        train: Statistics of the training speakers, of each of `HeadTraining.copies`.
        validation: The same of the validation speakers.
        settings: How to train.

    Raises:
        CorpusError: A class has no training utterance.
    """
    weights = class_weights(train[0])
    known, new = ([_statistics(each) for each in part] for part in (train, validation))
    y, y_new = train[0].labels, validation[0].labels
    asked = new if settings.vaccinate_db is not None else new[:1]
    tried = []
    for penalty in sorted(settings.penalties):
        head = fit_head(known, y, weights, penalty, settings.steadiness)
        tried.append((recall(head, asked, y_new), penalty, head))
    uar, penalty, first = max(tried, key=lambda each: each[:2])  # of equal ones the largest
    everybody = [torch.cat(pair) for pair in zip(known, new, strict=True)]
    head = fit_head(everybody, torch.cat([y, y_new]), weights, penalty, settings.steadiness)
    return ChosenHead(head, first, penalty, uar)


def _statistics(dataset: Dataset) -> Tensor:
    """Return what was heard of all utterances of a dataset, (N, L, 2 D)."""
    return dataset.batch(np.arange(len(dataset))).x[:, 0]


@torch.no_grad()
def recall(head: EncoderHead, copies: Sequence[Tensor], y: Tensor) -> float:
    """Return the unweighted average recall of a head that answers with the mean over copies.

    Args:
        head: From statistics to logits.
        copies: Statistics (N, L, 2 D) of the same N utterances.
        y: Their classes (N,).
    """
    return mean_recall(
        classes_of(torch.stack([head(each).softmax(1) for each in copies]).mean(0)) == y, y
    )


def mean_recall(hits: Tensor, y: Tensor) -> float:
    """Return the unweighted average recall, in [0, 1].

    Args:
        hits: Which utterances were answered right, (N,) bool.
        y: Their classes (N,).
    """
    return float(torch.stack([hits[y == c].double().mean() for c in set(y.tolist())]).mean())


def fit_head(
    copies: Sequence[Tensor], y: Tensor, weights: Tensor, penalty: float, steadiness: float = 0.0
) -> EncoderHead:
    """Return the head that minimises the penalised loss.

    Args:
        copies: Statistics (N, L, 2 D) of the same N utterances, recorded and noisy.
        y: Their classes (N,).
        weights: What an utterance of each class counts, (C,).
        penalty: L2, on the linear layer and on the logits of the layers' weights.
        steadiness: Weight of the variance over copies of the logits, those of an utterance less
            their mean: its sum over classes, its mean over utterances.
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
        logits = head(statistics)
        total: Tensor = loss_of(logits, y) + penalty * squares
        if steadiness:
            centred = (logits - logits.mean(1, keepdim=True)).unflatten(0, (len(copies), -1))
            total = total + steadiness * centred.var(dim=0).sum(dim=1).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with one_thread():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return head.eval()
