"""A plain denoiser: the purifier's network, trained on Gaussian noise instead of SSA.

What is left of a purifier without feature distortion, feature loss and discriminator. Trained with
the mean squared error like the denoiser of Salman et al. 2020 (denoised smoothing, eq. 3), whose
noise is not clamped either; it may thus stand in front of a smoothed classifier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from servax.features import Dataset, FrontEndSettings
from servax.kinds import Rule, Rules, check_types
from servax.models import FrameTransformerSettings, RestorerSettings, new_restorer
from servax.purifier.purifier import Purifier
from servax.training import (
    Compute,
    Fitted,
    Progress,
    RestorerTrainer,
    Schedule,
    Terms,
    check_restorer,
    current,
    drawn,
    fit,
    generator,
    global_seed,
)


@dataclass(frozen=True)
class DenoiserTraining:
    """Settings of a denoiser's training; all but the noise are those of the purifier."""

    standard_deviation: float = 0.03
    """Of the noise, on the [0, 1] scale (.03 is 2.4 dB)."""
    epochs: int = 60
    """Most epochs."""
    patience: int = 5
    """Epochs without a lower validation loss before training stops."""
    batch_size: int = 16
    """Utterances per step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0; 0 switches it off."""
    clip_norm: float = 1.0
    """Largest Euclidean norm of the gradient; 0 switches clipping off."""

    RULES: ClassVar[Rules] = {
        "standard_deviation": Rule("a number in (0, 1]", lambda sd: 0 < sd <= 1)
    }

    def __post_init__(self) -> None:
        check_types(self)
        check_restorer(self)
        self.schedule()

    def schedule(self) -> Schedule:
        """Return when training stops and which epoch is kept."""
        return Schedule(self.epochs, self.patience, monitor="validation/loss", mode="min")


class DenoiserTrainer(RestorerTrainer[DenoiserTraining]):
    """A denoiser in training, to be driven by `servax.training.fit`.

    Args:
        network: From (B, 1, M, F) to the same shape.
        train: Training speakers.
        validation: Validation speakers.
        settings: How to train.
        seed: Seeds the batches and the noise.
        compute: Device and precision.
    """

    purpose = "denoiser"
    distortion = "noise"

    def _step(self, x: Tensor, draws: torch.Generator) -> Terms:
        """Move the network on one batch x (B, 1, M, F)."""
        team, whole = self.team, len(x)
        draws, x = team.draws(draws, whole), team.cut(x)
        share = team.share(len(x), whole)
        with self.compute.autocast():
            denoised = self._called(self._noisy(x, draws))
        # Taken at the output, since the mean of a process without utterances is NaN.
        output = denoised.detach().requires_grad_(True)
        loss = mse_loss(output, x)
        (gradient,) = torch.autograd.grad(loss * share, output)
        self._move(denoised, gradient)
        return team.means({"loss": loss}, share)

    @torch.no_grad()
    def validate(self, epoch: int) -> Terms:
        """Return the loss on validation speakers; every epoch is measured on the same noise."""
        del epoch
        self.network.eval()
        draws = generator(self.seed, "noise", "validation")
        loss = 0.0
        for batch in self._validation.batches(self.settings.batch_size, self.device):
            with self.compute.autocast():
                denoised = self.network(self._noisy(batch.x, draws))
            loss += len(batch.x) / len(self._validation) * float(mse_loss(denoised, batch.x))
        return {"validation/loss": loss}

    def _noisy(self, x: Tensor, draws: torch.Generator) -> Tensor:
        noise = drawn(torch.randn, x.shape, draws, x.dtype).to(x.device)
        return x + self.settings.standard_deviation * noise


def train_denoiser(
    train: Dataset,
    validation: Dataset,
    training: DenoiserTraining,
    folder: Path,
    *,
    network: RestorerSettings | None = None,
    front_end: FrontEndSettings | None = None,
    seed: int = 0,
    compute: Compute | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Train a denoiser and leave it in ``folder/model``, as a purifier.

    What takes a purifier takes it: `Purifier.from_pretrained` reads that folder.

    Args:
        train: Training speakers.
        validation: Validation speakers.
        training: How to train.
        folder: Holds the checkpoint, the log and the model; must exist. A checkpoint found there
            is resumed.
        network: The network; by default the purifier's.
        front_end: What made the datasets; by default the standard settings.
        seed: Seeds the weights, the batches and the noise.
        compute: Device and precision.
        progress: Called after each step.

    Raises:
        CheckpointError: The checkpoint is broken, or belongs to another training.
        ServaxError: The loss is not finite.
    """
    kind = network or FrameTransformerSettings()
    with global_seed(seed, "weights"):
        denoiser = new_restorer(kind)
    trainer = DenoiserTrainer(denoiser, train, validation, training, seed=seed, compute=compute)
    spoken = [list(part.corpus.utterances["utterance"]) for part in (train, validation)]
    told = ("denoiser", kind, training, front_end, seed, train.scale.settings, spoken)
    identity = hashlib.sha256(repr(told).encode()).hexdigest()
    fitted = fit(
        trainer, training.schedule(), folder, seed=seed, settings=identity, progress=progress
    )
    if current().main:
        heard = map(str, train.corpus.speakers)
        Purifier(denoiser, train.scale, front_end, heard).save_pretrained(folder / "model")
    return fitted
