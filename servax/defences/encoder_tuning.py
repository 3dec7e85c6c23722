"""Tunes the last layers of a speech encoder with its head, on sounds as they are or under attack.

SmoothAdv (Salman et al. 2019, section 2.2) where the classifier adds noise: projected gradient
descent against it, each attack through the noise that the step then hears, one draw of it; without
noise that is the training of Madry et al. 2018. Sounds that nobody attacked count as much, so that
clean speech is not given up.

The last weights are kept, as in adversarial training: how an attack of a few steps fares on the
validation speakers tells little of longer ones.

Sounds of nearly one length are heard together, cut to the shortest of them, so that nothing is
filled up: an encoder's statistics would hear it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.attacks import MomentumPGD
from servax.audio import read
from servax.corpora import Corpus
from servax.errors import SettingError
from servax.features import Batch
from servax.features.whisper import LONGEST, SAMPLE_RATE
from servax.kinds import COUNT, Rule, Rules, check_types
from servax.models import EncoderClassifier, Noise, SmoothedClassifier, classes_of
from servax.models.encoder import SHORTEST
from servax.perturbation import SignalToNoise
from servax.training import (
    Compute,
    NetworkTrainer,
    Schedule,
    Shelf,
    Terms,
    class_weights,
    derive,
    generator,
    mean_recall,
)
from servax.training.trainers import STEPS

JITTER = SAMPLE_RATE // 4
"""Samples by which lengths are mixed, so that batches of an epoch are not those of another."""
HEAD_FASTER = 20.0
"""How much larger the steps of the head are than those of the encoder."""
RISE, FIRST_RATE = 0.3, 0.04
"""Share of the training over which the learning rate rises, and where it starts."""
BAND_DB = 15.0
"""Attacks are drawn from the lowest ratio to so much above it."""
CLIP_NORM = 1.0
"""Largest norm of the gradient of a step."""


@dataclass(frozen=True, kw_only=True)
class EncoderTuning:
    """Settings of the tuning of an encoder."""

    layers: int = 1
    """How many of its last layers are tuned; those before stay as they were published. With all of
    them the convolutions below are tuned too."""
    epochs: int = 12
    """Epochs; the last weights are kept."""
    batch_size: int = 16
    """Sounds per step."""
    learning_rate: float = 5e-5
    """Largest of AdamW for the encoder; the head's is 20 times as large. It rises for three tenths
    of the epochs and falls to 0 over the rest (Smith and Topin 2018)."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    attack_db: float | None = None
    """Lowest signal-to-noise ratio of the attacks, in dB; each batch meets one between it and 15 dB
    above. None attacks nothing."""
    attack_steps: int = 3
    """Steps of each attack."""

    RULES: ClassVar[Rules] = {
        **STEPS,
        "layers": COUNT,
        "epochs": COUNT,
        "attack_steps": COUNT,
        "weight_decay": Rule("a number in [0, 1)", lambda decay: 0 <= decay < 1),
    }

    def __post_init__(self) -> None:
        check_types(self)
        if self.attack_db is not None and not 0 <= self.attack_db <= 90:
            raise SettingError("attack_db", self.attack_db, "a number of dB in [0, 90]")

    def schedule(self) -> Schedule:
        """Return a schedule that runs all epochs and keeps the last weights."""
        return Schedule(self.epochs, self.epochs, monitor="train/epoch", mode="max")

    def rate(self, epoch: float) -> float:
        """Return the learning rate of the encoder, so many epochs into the training."""
        done = epoch / self.epochs
        if done < RISE:
            share = FIRST_RATE + (1.0 - FIRST_RATE) * 0.5 * (1.0 - math.cos(math.pi * done / RISE))
        else:
            share = 0.5 * (1.0 + math.cos(math.pi * (done - RISE) / (1.0 - RISE)))
        return self.learning_rate * share


class Sounds:
    """The sounds of one part of a fold at 16 kHz, of any lengths; kept in a file without a name.

    Args:
        corpus: The part; of a sound of over 30 s the middle is taken.

    Raises:
        AudioError: A file cannot be read.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.labels = torch.from_numpy(np.asarray(corpus.label_index, dtype=np.int64).copy())
        self._kept, lengths = Shelf(), []
        for _, path, start, end in corpus.stretches:
            sound = torch.from_numpy(read(path, sample_rate=SAMPLE_RATE, start=start, end=end))
            first = max(len(sound) - LONGEST, 0) // 2
            sound = sound[first : first + LONGEST]
            sound = nn.functional.pad(sound, (0, max(SHORTEST - len(sound), 0)))
            self._kept.put(sound)
            lengths.append(len(sound))
        self.lengths = torch.tensor(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def classes(self) -> int:
        """Number of classes of the label scheme."""
        return len(self.corpus.labels)

    def order(self, size: int, draws: torch.Generator | None = None) -> list[NDArray[np.int64]]:
        """Return batches of sounds of nearly one length: drawn, or always the same."""
        lengths = self.lengths.double()
        if draws is not None:
            lengths = lengths + JITTER * torch.rand(len(self), generator=draws)
        ranked = lengths.argsort(stable=True).numpy()
        batches = [ranked[start : start + size] for start in range(0, len(self), size)]
        if draws is None:
            return batches
        return [batches[i] for i in torch.randperm(len(batches), generator=draws).tolist()]

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        """Return the sounds at `positions` (B,), their middles as long as the shortest, (B, T)."""
        shortest, rows = int(self.lengths[torch.from_numpy(positions)].min()), []
        for position in positions.tolist():
            first = (int(self.lengths[position]) - shortest) // 2
            rows.append(self._kept.get(position)[first : first + shortest])
        y = self.labels[torch.from_numpy(positions)]
        return Batch(torch.stack(rows).to(device), y.to(device), positions)


class UnderOneNoise(nn.Module):
    """A classifier that draws the same noise in each pass, until another seed is given."""

    def __init__(self, model: nn.Module, draws: torch.Generator) -> None:
        super().__init__()
        self.model, self.draws = model, draws
        self.seed = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of sounds (B, T)."""
        self.draws.manual_seed(self.seed)
        return self.model(x).float()  # type: ignore[no-any-return]


class EncoderTuner(NetworkTrainer[EncoderTuning]):
    """An encoder in tuning, to be driven by `servax.training.fit`.

    Args:
        network: What is tuned, from where its head has ended. One that adds noise hears one draw
            of it.
        train: Training speakers.
        validation: Validation speakers; they are measured, and decide nothing.
        settings: How to tune.
        seed: Seeds batches, noise and attacks.
        compute: Device and precision.

    Raises:
        SettingError: The encoder has fewer layers.
        CorpusError: A class has no training utterance.
    """

    purpose = "tuning"
    distortion = "tuning"
    network: EncoderClassifier

    def __init__(
        self,
        network: EncoderClassifier,
        train: Sounds,
        validation: Sounds,
        settings: EncoderTuning,
        *,
        seed: int,
        compute: Compute | None = None,
    ) -> None:
        blocks = network.encoder.blocks
        if settings.layers > len(blocks):
            expected = f"at most {len(blocks)}, the layers of the encoder that are used"
            raise SettingError("layers", settings.layers, expected)
        whole = settings.layers == len(blocks)
        tuned: nn.Module = network.encoder.network if whole else blocks[-settings.layers :]
        self.tuned = list(tuned.parameters())
        heard, draws = network, torch.Generator()
        if isinstance(network, SmoothedClassifier):
            noise = Noise(network.noise.snr_db, 1)
            heard = SmoothedClassifier(network.encoder, network.head, noise, draws)
        super().__init__(heard, train, validation, settings, seed=seed, compute=compute)  # type: ignore[arg-type]
        self.heard = UnderOneNoise(self.network, draws)
        self._loss = nn.CrossEntropyLoss(class_weights(train)).to(self.device)  # type: ignore[arg-type]

    def _new_optimiser(self) -> torch.optim.Optimizer:
        s = self.settings
        for weights in self.tuned:
            weights.requires_grad_(True)
        head: dict[str, Any] = {
            "params": list(self.network.head.parameters()),
            "faster": HEAD_FASTER,
        }
        encoder: dict[str, Any] = {"params": self.tuned}
        return torch.optim.AdamW([encoder, head], lr=s.learning_rate, weight_decay=s.weight_decay)

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        draws = generator(derive(self.seed, self.purpose), "order", epoch)
        return self._train.order(self.settings.batch_size, draws)  # type: ignore[attr-defined, no-any-return]

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Tune on every sound once; return the mean loss, and which epoch this was."""
        return super().train_epoch(epoch, tick) | {"train/epoch": float(epoch)}

    def _train_batch(self, batch: Batch, draws: torch.Generator, epoch: float) -> Terms:
        s = self.settings
        share = float(torch.rand((), generator=draws))
        self.heard.seed = int(torch.randint(2**62, (), generator=draws))
        with self.compute.autocast():
            loss = self._loss(self.heard(batch.x), batch.y)
            if s.attack_db is not None:
                moved = self.attacked(batch, s.attack_db + BAND_DB * share)
                loss = 0.5 * (loss + self._loss(self.heard(moved), batch.y))
        self._descend(loss.backward, s.rate(epoch), CLIP_NORM)
        return {"loss": float(loss.detach())}

    def attacked(self, batch: Batch, snr_db: float) -> Tensor:
        """Return the sounds (B, T) of a batch, moved as far as a ratio in dB allows."""
        steps = self.settings.attack_steps
        attack = MomentumPGD(
            norm=SignalToNoise,
            epsilon=snr_db,
            step=min(2.0 / steps, 1.0),
            steps=steps,
            decay=0.75,
            bounds=(-1.0, 1.0),
        )
        return attack(self.heard, batch.x, batch.y)

    @torch.no_grad()
    def validate(self, epoch: int) -> Terms:
        """Return UAR on the validation speakers; noise and attacks are the same in each epoch."""
        del epoch
        self.network.eval()
        s, answered = self.settings, []
        hits: dict[str, list[Tensor]] = {}
        for number, positions in enumerate(self._validation.order(s.batch_size)):  # type: ignore[attr-defined]
            batch = self._validation.batch(positions, self.device)
            self.heard.seed, sounds = number, {"clean": batch.x}
            with self.compute.autocast():
                if s.attack_db is not None:
                    sounds["attacked"] = self.attacked(batch, s.attack_db + BAND_DB / 2.0)
                self.heard.seed = -1 - number  # not the noise that was attacked
                for name, x in sounds.items():
                    hits.setdefault(name, []).append(classes_of(self.heard(x)) == batch.y)
            answered.append(batch.y)
        y = torch.cat(answered)
        return {
            f"validation/{name}": mean_recall(torch.cat(each), y) for name, each in hits.items()
        }
