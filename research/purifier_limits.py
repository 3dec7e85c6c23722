"""Measure what limits a purifier on log-Mel: the size of what it leaves, the attack, the speakers.

    python research/purifier_limits.py QUESTION TARGET PURIFIER

Three questions, all before one recogniser; attacks are oblivious (PGD-5, step .005, radius .02).
`random`: what does it answer when its input is changed at random, as much as the purifier leaves?
`orders`: what do the cosine orders of an attack carry that the texture shuffle keeps, and what the
others? `speakers`: what do recogniser and purifier do on speakers that they have heard, and on
others? Leaves `results/research/limits/QUESTION.json`; docs/research.md tells of it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from halves import features, folds
from subjects import group_of
from torch import Tensor, nn

from servax.attacks import PGD
from servax.evaluation.dataset import chosen
from servax.evaluation.metrics import uar
from servax.experiments.provenance import provenance
from servax.features import Dataset
from servax.files import write_whole
from servax.models import frozen
from servax.models.unet import TextureShuffle
from servax.purifier import Purifier
from servax.recognition import Recogniser

OUT = Path("results/research/limits")
ATTACK = PGD(step=0.005, epsilon=0.02, steps=5)
SHUFFLE = TextureShuffle(keep=4)
SIZES = (0.02, 0.04, 0.08)
BATCH = 16
Purify = Callable[[Tensor], Tensor]


class Confined(nn.Module):
    """A recogniser that hears one part alone of what an attacker adds to x (B, 1, M, F)."""

    def __init__(self, network: nn.Module, x: Tensor, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.x, self.part = network, x, part

    def heard(self, moved: Tensor) -> Tensor:
        """Return what the recogniser gets."""
        return (self.x + self.part(moved - self.x)).clamp(0.0, 1.0)

    def forward(self, moved: Tensor) -> Tensor:
        """Return its logits (B, C)."""
        logits: Tensor = self.network(self.heard(moved))
        return logits


class Table:
    """Conditions and what a recogniser answers to them."""

    def __init__(self, network: nn.Module, data: Dataset) -> None:
        self.network, self.data = network, data
        whole = data.batch(np.arange(len(data)))
        self.x, self.y = whole.x, whole.y
        self.speakers = data.corpus.utterances["speaker"].astype(str).to_numpy()
        self.rows: list[dict[str, object]] = []

    def add(self, condition: str, x: Tensor, **more: object) -> None:
        """Note the answers to x (N, 1, M, F), and how far it is from the clean inputs."""
        x = x.clamp(0.0, 1.0)
        with torch.no_grad():
            logits = torch.cat([self.network(each) for each in x.split(BATCH)])
        answers, y = logits.argmax(1).numpy(), self.y.numpy()
        true = logits.softmax(1)[torch.arange(len(x)), self.y]
        of = [self.speakers == speaker for speaker in np.unique(self.speakers)]
        each = [100 * uar(y[mask], answers[mask]) for mask in of]
        row = {
            "condition": condition,
            **more,
            "rms": round(size(x - self.x), 4),
            "probability": round(100 * float(true.mean()), 1),
            "uar": round(100 * uar(y, answers), 1),
            "speakers": [round(min(each), 1), round(max(each), 1)],
        }
        print(json.dumps(row), flush=True)
        self.rows.append(row)

    def attacked(self, part: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return attacked inputs, the change confined to a part of it where one is given."""
        found = []
        for x, y in zip(self.x.split(BATCH), self.y.split(BATCH), strict=True):
            model = Confined(self.network, x, part or nn.Identity())
            found.append(model.heard(ATTACK(model, x, y)))
        return torch.cat(found)


def size(change: Tensor) -> float:
    """Return the root mean square of a change."""
    return float(change.pow(2).mean().sqrt())


def coloured(change: Tensor, draws: torch.Generator) -> Tensor:
    """Return random changes with the spectra of these, over Mel and frames: other phases alone."""
    phases = torch.fft.rfft2(torch.randn(change.shape, generator=draws))
    spectra = torch.fft.rfft2(change).abs() * phases / phases.abs().clamp_min(1e-12)
    return torch.fft.irfft2(spectra, s=change.shape[2:])


def kept(change: Tensor) -> Tensor:
    """Return the part of a change in the cosine orders u + v < 4, which the shuffle keeps."""
    turned = TextureShuffle(keep=4)
    turned.signs = torch.where(_low(turned), 1, -1).to(torch.int8)
    both: Tensor = turned(change)
    return (change + both) / 2


def _low(shuffle: TextureShuffle) -> Tensor:
    order = torch.arange(8)
    low = (order[:, None] + order[None]).flatten() < shuffle.keep
    return low[:, None, None].expand(shuffle.signs.shape)


def scattered(change: Tensor) -> Tensor:
    """Return the rest of it, which the shuffle scatters."""
    return change - kept(change)


def at_random(table: Table, purify: Purify) -> None:
    """Change clean inputs at random: white, and coloured like what a purifier leaves."""
    draws = torch.Generator().manual_seed(0)
    table.add("clean", table.x)
    left = purify(table.x) - table.x
    table.add("what the purifier leaves", table.x + left)
    table.add("half of it", table.x + left / 2)
    table.add("its spectrum, other phases", table.x + coloured(left, draws))
    for rms in (*SIZES, size(left)):
        white = torch.randn(table.x.shape, generator=draws) * rms
        table.add("white", table.x + white)


def orders(table: Table, purify: Purify) -> None:
    """Take an attack apart by cosine orders, and confine attacks to some of them."""
    attacked = table.attacked()
    change = attacked - table.x
    table.add("clean", table.x)
    table.add("clean, shuffled", SHUFFLE(table.x))
    table.add("attack", attacked)
    table.add("attack, its change shuffled", table.x + SHUFFLE(change))
    for name, part in (("kept", kept), ("scattered", scattered)):
        energy = round(float(part(change).pow(2).sum() / change.pow(2).sum()), 3)
        table.add(f"attack, its part in {name} orders", table.x + part(change), energy=energy)
    table.add("attack, purified", purify(attacked))
    for name, part in (("kept", kept), ("scattered", scattered)):
        confined = table.attacked(part)
        table.add(f"attack made in {name} orders", confined)
        table.add(f"attack made in {name} orders, purified", purify(confined))


def speakers(table: Table, purify: Purify) -> None:
    """Ask for what is heard clean and attacked, bare and purified."""
    attacked = table.attacked()
    table.add("clean", table.x)
    table.add("attack", attacked)
    table.add("clean, purified", purify(table.x))
    table.add("attack, purified", purify(attacked))


QUESTIONS: dict[str, Callable[[Table, Purify], None]] = {
    "random": at_random,
    "orders": orders,
    "speakers": speakers,
}


def main() -> None:
    """Answer one of the three questions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("target", help="folder of a recogniser that `servax run` trained")
    parser.add_argument("purifier", help="folder, or name of a packaged one")
    parser.add_argument("--utterances", type=int, default=32, help="of each set of speakers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = Recogniser.from_pretrained(given.target)
    whole = Purifier.from_pretrained(given.purifier)
    purifier = whole.frozen()

    @torch.no_grad()
    def purify(x: Tensor) -> Tensor:
        return torch.cat([purifier(each) for each in x.split(BATCH)]).clamp(0.0, 1.0)

    fold = folds()[group_of(given.target, folds()) - 1]
    parts = (
        (fold.test, fold.validation, fold.train) if given.question == "speakers" else (fold.test,)
    )
    rows = []
    for part in parts:
        for heard in (True, False):
            actors = [str(s) for s in part.speakers if (str(s) in whole.speakers) == heard]
            if not actors:
                continue
            those = part.subset(speakers=actors)
            those = those.subset(chosen(those, given.utterances, seed=0))
            table = Table(frozen(found.network), Dataset(those, features("four"), found.scale))
            QUESTIONS[given.question](table, purify)
            told = {
                "actors": actors,
                "heard_by_recogniser": part is fold.train,
                "heard_by_purifier": heard,
            }
            rows += [told | row for row in table.rows]
    origin = provenance(shlex.join(["python", *sys.argv]))
    record = {key: origin[key] for key in ("command", "commit")} | {"rows": rows}
    OUT.mkdir(parents=True, exist_ok=True)
    where = OUT / f"{given.question}.json"
    write_whole(where, f"{json.dumps(record, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
