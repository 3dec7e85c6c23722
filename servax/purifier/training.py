"""Trains the purifier P against the discriminator D (paper, section 2.1; docs/method.md).

Each step distorts a fresh batch by SSA, purifies it, moves D and then P. Neither the protected
model nor an attack is seen: import contracts keep `servax.attacks` out of this package.

Departures: linear warm-up and gradient clipping (a transformer at learning rate 1e-3 needs them).
L_adv's gradient at P's output is kept at most a tenth as long as that of the other two terms: by
the letter of eq. 7 P was torn apart by D (docs/method.md has the figures). The validation loss that
stops training leaves L_adv out, since it measures P against a D that itself moves from epoch to
epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import Batch, Dataset
from servax.kinds import check_types
from servax.models import TAPS, Discriminator
from servax.purifier.losses import (
    LossWeights,
    combined_gradient,
    discriminator_loss,
    feature_loss,
    generator_loss,
    pixel_loss,
)
from servax.purifier.ssa import SSA
from servax.training import (
    Compute,
    RestorerTrainer,
    Schedule,
    Shelf,
    Terms,
    check_restorer,
    generator,
)


@dataclass(frozen=True)
class PurifierTraining:
    """Settings of a purifier's training; defaults are the paper's where it prints them."""

    ssa: SSA = field(default_factory=SSA)
    """The augmentation."""
    weights: LossWeights = field(default_factory=LossWeights)
    """α, β, γ of eq. 7."""
    tap: str = "conv3_3"
    """Where the extractor is read (NRP: after the ReLU of conv3_3)."""
    epochs: int = 60
    """Most epochs."""
    patience: int = 5
    """Epochs without a lower validation loss before training stops (paper)."""
    batch_size: int = 16
    """Utterances per step."""
    learning_rate: float = 1e-3
    """Of Adam, for P and D (paper)."""
    warmup_steps: int = 100
    """Steps over which P's learning rate rises linearly from 0; 0 switches it off."""
    clip_norm: float = 1.0
    """Largest Euclidean norm of P's gradient; 0 switches clipping off."""
    adversarial_limit: float | None = 0.1
    """Longest gradient of L_adv at P's output, as a share of the other terms'; none lifts it."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, kind in (("ssa", SSA), ("weights", LossWeights)):
            if isinstance(getattr(self, name), dict):
                object.__setattr__(self, name, kind(**getattr(self, name)))
        if self.tap not in TAPS:
            raise SettingError.choice("tap", self.tap, TAPS)
        check_restorer(self)
        limit = self.adversarial_limit
        if limit is not None and not 0 < limit < 1:
            raise SettingError("adversarial_limit", limit, "a share in (0, 1), or none")
        self.schedule()

    def schedule(self) -> Schedule:
        """Return when training stops and which epoch is kept."""
        return Schedule(self.epochs, self.patience, monitor="validation/loss", mode="min")


class PurifierTrainer(RestorerTrainer[PurifierTraining]):
    """P and D in training, to be driven by `servax.training.fit`.

    Args:
        network: P, from (B, 1, M, F) to the same shape.
        discriminator: D, from (B, 1, M, F) to logits (B,).
        extractor: F up to its tap, frozen and in evaluation mode.
        train: Training speakers.
        validation: Validation speakers.
        settings: How to train.
        seed: Seeds the batches and the starts of SSA.
        compute: Device and precision.
    """

    purpose = "purifier"
    distortion = "ssa"

    def __init__(
        self,
        network: nn.Module,
        discriminator: Discriminator,
        extractor: nn.Module,
        train: Dataset,
        validation: Dataset,
        settings: PurifierTraining,
        *,
        seed: int,
        compute: Compute | None = None,
    ) -> None:
        super().__init__(network, train, validation, settings, seed=seed, compute=compute)
        self.discriminator = discriminator.to(self.device)
        self.extractor = extractor.to(self.device).eval()
        self._discriminator_optimiser = torch.optim.Adam(
            discriminator.parameters(), lr=settings.learning_rate
        )
        self._distorted_validation: Shelf | None = None
        self._called_discriminator = self.team.parallel(self.discriminator)

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Train on every utterance once; return the mean of each loss term."""
        self.discriminator.train()
        return super().train_epoch(epoch, tick)

    def _step(self, x: Tensor, draws: torch.Generator) -> Terms:
        """Move D, then P, on one batch x (B, 1, M, F)."""
        weights, team, whole = self.settings.weights, self.team, len(x)
        draws, x = team.draws(draws, whole), team.cut(x)
        share = team.share(len(x), whole)
        with self.compute.autocast():
            with torch.no_grad():
                features = self.extractor(x)  # serves SSA and L_feat
            distorted = self.settings.ssa(self.extractor, x, features, draws)
            purified = self._called(distorted)
        terms: dict[str, Tensor] = {}
        if weights.adversarial > 0:
            terms["discriminator"] = self._move_discriminator(x, purified.detach(), share)
        output = purified.detach().requires_grad_(True)
        with self.compute.autocast():
            pixel = pixel_loss(x, output)
            feature = feature_loss(features, self.extractor(output))
            loss = weights.pixel * pixel + weights.feature * feature
            (gradient,) = torch.autograd.grad(loss * share, output)
            if weights.adversarial > 0:
                adversarial = generator_loss(self.discriminator(output))
                (slope,) = torch.autograd.grad(weights.adversarial * adversarial * share, output)
                gradient = combined_gradient(
                    gradient, slope, limit=self.settings.adversarial_limit, length=team.length
                )
                loss = loss.detach() + weights.adversarial * adversarial.detach()
                terms["adversarial"] = adversarial
        self._move(purified, gradient)
        return team.means(terms | {"loss": loss, "pixel": pixel, "feature": feature}, share)

    def _move_discriminator(self, x: Tensor, purified: Tensor, share: float = 1.0) -> Tensor:
        self.discriminator.requires_grad_(True)
        called = self._called_discriminator
        with self.compute.autocast():
            loss = discriminator_loss(called(x), called(purified))
        self._discriminator_optimiser.zero_grad(set_to_none=True)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        self._discriminator_optimiser.step()
        # P's gradient passes through D, but D's own gradient is not needed for it.
        self.discriminator.requires_grad_(False)
        return loss.detach()

    def validate(self, epoch: int) -> Terms:
        """Return pixel and feature loss on distorted validation speakers."""
        del epoch
        weights = self.settings.weights
        self.network.eval()
        pixel = feature = 0.0
        for batch, distorted in self._validation_pairs():
            with torch.no_grad(), self.compute.autocast():
                purified = self.network(distorted)
                share = len(batch.x) / len(self._validation)
                pixel += share * float(pixel_loss(batch.x, purified))
                feature += share * float(
                    feature_loss(self.extractor(batch.x), self.extractor(purified))
                )
        return {
            "validation/pixel": pixel,
            "validation/feature": feature,
            "validation/loss": weights.pixel * pixel + weights.feature * feature,
        }

    def _validation_pairs(self) -> Iterator[tuple[Batch, Tensor]]:
        """Yield clean and distorted validation batches.

        SSA depends on F alone, not on P, so they are made once and every epoch is measured on the
        same ones.
        """
        if self._distorted_validation is None:
            self._distorted_validation = self._distorted()
        kept = self._distorted_validation
        batches = self._validation.batches(self.settings.batch_size, self.device)
        for number, batch in enumerate(batches):
            yield batch, kept.get(number, self.device)

    def _distorted(self) -> Shelf:
        draws, kept = generator(self.seed, "ssa", "validation"), Shelf()
        for batch in self._validation.batches(self.settings.batch_size, self.device):
            with self.compute.autocast():
                with torch.no_grad():
                    features = self.extractor(batch.x)
                kept.put(self.settings.ssa(self.extractor, batch.x, features, draws))
        return kept

    def state(self) -> dict[str, Any]:
        """Return weights, optimiser states and the number of steps done."""
        return super().state() | {
            "discriminator": copy.deepcopy(self.discriminator.state_dict()),
            "discriminator_optimiser": copy.deepcopy(self._discriminator_optimiser.state_dict()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        super().load_state(state)
        self.discriminator.load_state_dict(state["discriminator"])
        self._discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
