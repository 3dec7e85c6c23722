"""Add a defence: a module from inputs to inputs of the same shape that says how gradients pass.

    python examples/add_defence.py                          # attacked in two ways
    servax audit crnn-synthetic --corpus synthetic --tier smoke --utterances 8 \
        --defences floor=add_defence:Floor                  # in an audit; in this folder

`knowledge = "adaptive"` says that gradients through it are exact; `"bpda"` lets the identity stand
for them, where there are none. A defence that is trained reads its weights in `__init__`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import servax as sx


class Floor(torch.nn.Module):
    """Sets whatever is quieter than a level to silence."""

    knowledge = "adaptive"

    def __init__(self, level: float = 0.3) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-Mel (B, 1, M, F) on [0, 1] without its quiet cells."""
        return torch.where(x < self.level, torch.zeros_like(x), x)


def main() -> None:
    """Print what is left of a recogniser behind the defence."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--utterances", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=15, help="of PGD; default: %(default)s")
    given = parser.parse_args()

    recogniser = sx.Recogniser.from_pretrained("crnn-synthetic")
    corpus = sx.corpora.load("synthetic", scheme="four")
    unheard = [speaker for speaker in corpus.speakers if speaker not in recogniser.speakers]
    part = corpus.subset(speakers=unheard)
    part = part.subset(np.arange(len(part)) % max(1, len(part) // given.utterances) == 0)
    front_end = sx.FrontEnd(recogniser.front_end)
    features = sx.features.extract(part, front_end, folder=Path("runs/features"))
    batch = sx.features.Dataset(part, features, recogniser.scale).batch(np.arange(len(part)))

    model, defence = recogniser.network, Floor()
    pgd = sx.attacks.PGD(steps=given.steps)
    ways = {
        "no attack": None,
        "oblivious": model,  # the attacker knows the recogniser alone
        "adaptive": sx.Defended(model, defence),  # and the defence
        "bpda": sx.defences.Bpda(model, defence),  # and does not trust its gradient
    }
    for name, attacked in ways.items():
        x = batch.x if attacked is None else pgd(attacked, batch.x, batch.y)
        answers = sx.Defended(model, defence)(x).argmax(1)
        print(f"{name}: UAR {100 * sx.metrics.uar(batch.y.numpy(), answers.numpy()):.1f} %")


if __name__ == "__main__":
    main()
