"""One step of SSAD's training, by servax and by a straightforward transcription of the paper.

A step distorts a batch by SSA (T = 10 steps of ascent on the distance of VGG-16's features),
purifies it, moves the discriminator D and then the purifier P. The transcription reads like the
paper: the whole VGG-16 runs, as it was trained, each time features are needed, those of the clean
input are computed anew each time, every `backward` fills the gradients of all parameters, and the
blocks of P are torch's own layers. Both begin with the same weights and distort the same clips;
their first loss terms must agree.

    python benchmarks/training_step.py --model runs/bench-64/model
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from floor import Work, measure_rates, work_of
from harness import Row, floor_told, parser, race, ratio, write
from subject import add_subject
from torch import Tensor, nn

from servax.corpora import cache_folder, load
from servax.errors import ServaxError
from servax.features import Dataset, FrontEnd, extract
from servax.models import Discriminator, FrameTransformer, feature_extractor, frozen
from servax.purifier import PurifierTrainer, PurifierTraining
from servax.purifier.losses import pixel_loss
from servax.recognition import Recogniser
from servax.training import global_seed

TARGET = 3.0
"""How many times faster servax has to be."""
NEAR = 0.05
"""How far the first loss terms may lie apart, relative: near-zero gradients change sign."""


class Transcription:
    """The step as the paper reads, without any thought for speed.

    Args:
        purifier: P.
        discriminator: D.
        vgg: F, the whole network as it was trained.
        settings: Of SSA, the losses and the optimisers.
    """

    def __init__(
        self,
        purifier: nn.Module,
        discriminator: nn.Module,
        vgg: nn.Module,
        settings: PurifierTraining,
    ) -> None:
        self.purifier, self.discriminator, self.vgg = purifier, discriminator, vgg.eval()
        self.settings = settings
        self.optimisers = [
            torch.optim.Adam(each.parameters(), lr=settings.learning_rate)
            for each in (purifier, discriminator)
        ]
        self.seen: list[Tensor] = []
        place = vgg.features.get_submodule(settings.tap.replace("conv", "relu"))  # type: ignore[operator, union-attr]
        place.register_forward_hook(lambda module, given, out: self.seen.append(out))

    def features(self, x: Tensor) -> Tensor:
        """Return what passes the tap when the whole network hears x (B, 1, M, F)."""
        self.seen.clear()
        self.vgg(x)
        return self.seen[0]

    def distorted(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """Return SSA's inputs (B, 1, M, F), equations 1 to 3."""
        ssa = self.settings.ssa
        change = (2.0 * torch.rand(x.shape, generator=draws) - 1.0) * ssa.step
        moved = (x + change).clamp(0.0, 1.0)
        for _ in range(ssa.steps):
            moved = moved.detach().requires_grad_(True)
            distance = nn.functional.mse_loss(self.features(moved), self.features(x).detach())
            distance.backward()  # type: ignore[no-untyped-call]
            ahead = moved + ssa.step * cast(Tensor, moved.grad).sign()
            moved = x + (ahead - x).clamp(-ssa.epsilon, ssa.epsilon)
            moved = moved.clamp(0.0, 1.0)
        return moved.detach()

    def step(self, x: Tensor, draws: torch.Generator) -> dict[str, float]:
        """Move D, then P, on x (B, 1, M, F); return the loss terms."""
        softplus = nn.functional.softplus
        move_purifier, move_discriminator = self.optimisers
        distorted = self.distorted(x, draws)
        purified = self.purifier(distorted)
        move_discriminator.zero_grad()
        told = self.discriminator(x), self.discriminator(purified.detach())
        loss = softplus(-told[0]).mean() + softplus(told[1]).mean()
        loss.backward()
        move_discriminator.step()
        pixel = pixel_loss(x, purified)
        feature = (self.features(x) - self.features(purified)).abs().mean()
        adversarial = softplus(-self.discriminator(purified)).mean()
        move_purifier.zero_grad()
        (adversarial + pixel + feature).backward()
        nn.utils.clip_grad_norm_(self.purifier.parameters(), self.settings.clip_norm)
        move_purifier.step()
        return {"pixel": float(pixel.detach()), "feature": float(feature.detach())}


def with_torchs_blocks(purifier: FrameTransformer) -> FrameTransformer:
    """Return a copy of P whose blocks are `nn.TransformerEncoderLayer`, with the same weights."""
    twin, s = copy.deepcopy(purifier), purifier.settings
    for number, block in enumerate(purifier.encoder.layers):
        layer = nn.TransformerEncoderLayer(
            s.mels, s.heads, s.feedforward, dropout=0.0, batch_first=True, norm_first=True
        )
        layer.load_state_dict(block.state_dict())
        twin.encoder.layers[number] = layer
    return twin


def clips(given: argparse.Namespace) -> Dataset:
    """Return one batch of clips of the training speakers."""
    recogniser = Recogniser.from_pretrained(given.model)
    corpus = load(given.corpus, given.root, scheme=given.scheme)
    fold = corpus.folds(given.groups)[given.held_out - 1]
    positions = np.linspace(0, len(fold.train) - 1, given.batch_size).astype(int)
    part = fold.train.subset(np.isin(np.arange(len(fold.train)), positions))
    features = extract(part, FrontEnd(recogniser.front_end), folder=cache_folder() / "features")
    return Dataset(part, features, recogniser.scale)


def needed(trainer: PurifierTrainer, x: Tensor) -> Work:
    """Return the work of the least step: SSA to the input alone, then P and D once each way."""
    moved = x.clone().requires_grad_(True)
    ascent = work_of(lambda: torch.autograd.grad(trainer.extractor(moved).pow(2).mean(), moved))
    clean = work_of(lambda: torch.no_grad()(trainer.extractor)(x))
    learning = work_of(lambda: trainer.network(x).sum().backward())
    trainer.discriminator.requires_grad_(True)
    judged = work_of(lambda: trainer.discriminator(x).sum().backward())
    # F hears the clean input once and P's output once more, each way; D hears both, then P's again.
    parts = [clean, ascent.times(trainer.settings.ssa.steps + 1), learning, judged.times(3)]
    total = Work(0.0, 0.0)
    for part in parts:
        total = total.plus(part)
    return total


def main() -> int:
    """Run the benchmark; 0 when the target is met."""
    given = arguments()
    torch.set_num_threads(given.threads)
    data = clips(given)
    vgg = Recogniser.from_pretrained(given.model).network
    # The letter of eq. 7 on both sides: the limit on L_adv's gradient is a departure of ours.
    settings = replace(
        PurifierTraining(), batch_size=given.batch_size, adversarial_limit=None, warmup_steps=0
    )
    with global_seed(given.seed, "benchmark"):
        purifier, discriminator = FrameTransformer(), Discriminator()  # those of preset ssad
    trainer = PurifierTrainer(
        copy.deepcopy(purifier),
        copy.deepcopy(discriminator),
        feature_extractor(frozen(vgg), settings.tap),
        data,
        data,
        settings,
        seed=given.seed,
    )
    plain = Transcription(with_torchs_blocks(purifier), discriminator, vgg, settings)
    (batch,) = data.batches(given.batch_size, torch.device("cpu"))
    draws = torch.Generator().manual_seed(given.seed)
    first = {
        "servax": trainer.train_epoch(0, lambda: None),
        "transcription": plain.step(batch.x, draws),
    }
    apart = max(
        abs(first["servax"][f"train/{term}"] / first["transcription"][term] - 1.0)
        for term in ("pixel", "feature")
    )
    times = race(
        {
            "servax": lambda: trainer.train_epoch(0, lambda: None),
            "transcription": lambda: plain.step(batch.x, draws),
        },
        rounds=given.rounds,
        warm_up=0,  # the first step above was it
    )
    found, rates = ratio(times["transcription"], times["servax"]), measure_rates()
    width = vgg.settings.width
    row = Row(
        what=f"one SSAD training step (SSA T = {settings.ssa.steps}, P, D), F a VGG-16 of width "
        f"{width}, batch {given.batch_size}",
        against="a straightforward transcription",
        target=f"≥ {TARGET:g} ×",
        measured=f"{found}; first loss terms within {100 * apart:.2g} %",
        met=found.of_medians >= TARGET and apart <= NEAR,
        floor=floor_told(needed(trainer, batch.x), rates, times["servax"].seconds.median),
    )
    write(
        f"training_step-{width}",
        [row],
        times=times,
        rates=[rates],
        folder=given.results,
        first_terms={name: dict(terms) for name, terms in first.items()},
    )
    return 0 if row.met else 1


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("One step of SSAD's training: servax and a straightforward transcription.")
    add_subject(made, batch_size=16)
    made.add_argument("--seed", type=int, default=0, help="of weights and distortions")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"training_step: {error}")
