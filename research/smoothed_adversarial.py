"""Does an encoder that is tuned on attacks under noise keep more than a head that heard noise?

    servax train recogniser ravdess --encoder ../shared/models/whisper-tiny-en \
        --scheme four --groups 6 --held-out 1 --vaccinate 15 -o runs/v15
    python research/smoothed_adversarial.py runs/v15/model ravdess --group 1 --epochs 12 \
        -o runs/v15_tuned
    python research/attacked_recogniser.py runs/v15_tuned/model ravdess --group 1 \
        --utterances 40 -o results/ravdess_whisper_vaccinated/15_db_tuned

SmoothAdv (Salman et al. 2019): projected gradient descent against the smoothed classifier, each
attack through the noise that the training step then hears (one draw), at a ratio drawn from a band;
the loss is the cross entropy of attacked sounds and, weighed, of sounds that nobody attacked. The
encoder's layers and the head are tuned from where the vaccinated head ended. Sounds of nearly one
length are heard together, cut to the shortest; all gradients are computed in bfloat16.

The last epoch is kept: the head that it begins with has heard the validation speakers, so that
their UAR, as they are and attacked, is only shown. Goes on behind the last whole epoch when it was
stopped; ``log.csv`` has a row for each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import MomentumPGD
from servax.audio import read
from servax.corpora import Selection, load
from servax.evaluation.metrics import uar
from servax.files import write_whole
from servax.models import EncoderClassifier, Noise
from servax.perturbation import SignalToNoise
from servax.recognition import EncoderRecogniser
from servax.training import generator

RATE = 16_000
JITTER = RATE // 4
"""Samples that lengths are taken for more at random, so that batches differ."""


class UnderOneNoise(nn.Module):
    """A classifier under noise that stays the same until it is drawn anew."""

    def __init__(self, bare: EncoderClassifier, noise: Noise, draws: torch.Generator) -> None:
        super().__init__()
        self.bare, self.noise, self.draws = bare, noise, draws
        self.drawn = 0

    def draw(self) -> None:
        """Draw another noise."""
        self.drawn = int(torch.randint(2**62, (), generator=self.draws))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of sounds (B, T)."""
        noisy = self.noise.added(x, torch.Generator().manual_seed(self.drawn))
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.bare(noisy)
        return logits.float()


def heard(part: Selection) -> tuple[list[Tensor], Tensor]:
    """Return sounds (T,) and their classes (N,)."""
    sounds = []
    for _, path, start, end in part.stretches:
        sounds.append(torch.from_numpy(read(path, sample_rate=RATE, start=start, end=end)).float())
    return sounds, torch.tensor(part.label_index)


def alike(sounds: list[Tensor], size: int, draws: torch.Generator | None = None) -> list[Tensor]:
    """Return the rows of batches of sounds of nearly one length, drawn anew or always the same."""
    lengths = torch.tensor([float(len(sound)) for sound in sounds])
    if draws is None:
        return list(lengths.argsort().split(size))
    mixed = lengths + JITTER * torch.rand(len(sounds), generator=draws)
    batches = mixed.argsort().split(size)
    return [batches[i] for i in torch.randperm(len(batches), generator=draws).tolist()]


def of_one_length(
    sounds: list[Tensor], rows: Tensor, draws: torch.Generator | None = None
) -> Tensor:
    """Return sounds (B, T) cut to the shortest: a drawn stretch, or the middle."""
    shortest, found = min(len(sounds[row]) for row in rows), []
    for row in rows.tolist():
        room = len(sounds[row]) - shortest
        start = room // 2
        if draws is not None:
            start = int(torch.randint(room + 1, (), generator=draws))
        found.append(sounds[row][start : start + shortest])
    return torch.stack(found)


def attacked(model: nn.Module, x: Tensor, y: Tensor, snr_db: float, steps: int) -> Tensor:
    """Return sounds (B, T) moved as far as a ratio in dB allows."""
    attack = MomentumPGD(
        norm=SignalToNoise,
        epsilon=snr_db,
        step=min(2.0 / steps, 1.0),
        steps=steps,
        decay=0.75,
        bounds=(-1.0, 1.0),
    )
    return attack(model, x, y)


def validated(
    model: UnderOneNoise, sounds: list[Tensor], y: Tensor, given: argparse.Namespace
) -> dict[str, float]:
    """Return UAR in percent of one answer, as they are and attacked at a ratio."""
    model.draws.manual_seed(given.seed)
    told: dict[str, list[int]] = {"clean": [], "attacked": []}
    labels: list[int] = []
    for rows in alike(sounds, given.batch):
        x = of_one_length(sounds, rows)
        labels += y[rows].tolist()
        model.draw()
        moved = attacked(model, x, y[rows], given.judged, given.steps)
        model.draw()
        with torch.no_grad():
            for name, sound in (("clean", x), ("attacked", moved)):
                told[name] += model(sound).argmax(1).tolist()
    return {name: 100.0 * uar(labels, said) for name, said in told.items()}


def main() -> None:
    """Tune, keep the best epoch, go on where it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recogniser", type=Path)
    parser.add_argument("corpus")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scheme", default="four")
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="of the attack")
    parser.add_argument("--snr", type=float, nargs=2, default=[35.0, 50.0], help="its ratios, dB")
    parser.add_argument("--judged", type=float, default=40.0, help="ratio in validation, dB")
    parser.add_argument("--clean", type=float, default=1.0, help="weight of what is not attacked")
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate of the encoder")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    fold = load(given.corpus, None, scheme=given.scheme).folds(given.groups)[given.group - 1]
    recogniser = EncoderRecogniser.from_pretrained(given.recogniser)
    network = recogniser.network
    bare = EncoderClassifier(network.encoder, network.head)
    bare.requires_grad_(True)
    draws = generator(given.seed, "tuning")
    model = UnderOneNoise(bare, Noise(network.noise.snr_db, 1), torch.Generator())
    groups = [
        {"params": list(bare.encoder.parameters()), "lr": given.rate},
        {"params": list(bare.head.parameters()), "lr": 20 * given.rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    sounds, y = heard(fold.train)
    checked = heard(fold.validation)
    each = -(-len(y) // given.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [g["lr"] for g in groups], total_steps=each * given.epochs + 1
    )
    state, log = given.out / "state.pt", given.out / "log.csv"
    given.out.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(log).to_dict("records") if log.is_file() else []
    if state.is_file():
        was = torch.load(state, weights_only=True)
        bare.load_state_dict(was["network"])
        optimiser.load_state_dict(was["optimiser"])
        schedule.load_state_dict(was["schedule"])
        draws.set_state(was["draws"])
    if not rows:
        rows.append({"epoch": 0, "loss": np.nan, **validated(model, *checked, given)})
        print(rows[-1], flush=True)
    for epoch in range(len(rows), given.epochs + 1):
        losses = []
        for batch in alike(sounds, given.batch, draws):
            x, label = of_one_length(sounds, batch, draws), y[batch]
            low, high = given.snr
            snr_db = low + (high - low) * float(torch.rand((), generator=draws))
            model.drawn = int(torch.randint(2**62, (), generator=draws))
            moved = attacked(model, x, label, snr_db, given.steps)
            logits = model(torch.cat([moved, x])) if given.clean else model(moved)
            loss = nn.functional.cross_entropy(logits[: len(x)], label)
            if given.clean:
                loss = loss + given.clean * nn.functional.cross_entropy(logits[len(x) :], label)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        rows.append({"epoch": epoch, "loss": np.mean(losses), **validated(model, *checked, given)})
        print({k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
        recogniser.save_pretrained(given.out / "model", encoder=True)
        now = {
            "network": bare.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "draws": draws.get_state(),
        }
        torch.save(now, state.with_suffix(".new"))
        write_whole(log, pd.DataFrame(rows).to_csv(index=False).encode())
        state.with_suffix(".new").replace(state)


if __name__ == "__main__":
    main()
