"""Train the recognisers that stand in for unknown targets while a purifier is trained.

The 24 speakers of RAVDESS are divided in two halves along the six groups of the evaluation: half
`first` holds groups 1 to 3, half `last` groups 4 to 6. The surrogates of a half hear its twelve
speakers only, all of them, for a fixed number of epochs: there is nobody left to stop them by.

    python research/surrogates.py last vgg16-a vgg16-b resnet crnn
    python research/surrogates.py last vgg16-a --without 4

The second leaves out a group of the half (`vgg16-a-without-4`): a surrogate for utterances that it
has not heard, as a target hears those of a stranger.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from halves import HALVES, dataset

from servax.features import FrontEndSettings
from servax.models import RECOGNISERS
from servax.recognition import Recogniser, new_recogniser
from servax.training import Compute, RecogniserTrainer, RecogniserTraining, derive

FOLDER = Path("runs/research/surrogates")
WIDTH = 16
EPOCHS = 24


def train(half: str, name: str, epochs: int, without: int | None = None) -> None:
    """Leave the surrogate `name` (`<network>` or `<network>-<letter>`) of a half in its folder."""
    kind, _, letter = name.partition("-")
    if without:
        name = f"{name}-without-{without}"
    folder = FOLDER / half / name
    if (folder / "settings.json").is_file():
        print(f"{folder}: is there")
        return
    seed = derive(0, "surrogate", half, kind, letter, *([without] if without else []))
    data = dataset(half, scheme="four", without=without)
    network = new_recogniser(kind, data.classes, WIDTH, seed=seed)  # type: ignore[arg-type]
    training = RecogniserTraining(epochs=epochs, patience=epochs)
    trainer = RecogniserTrainer(network, data, data, training, seed=seed, compute=Compute("cpu"))
    began = time.monotonic()
    for epoch in range(epochs):
        terms = trainer.train_epoch(epoch, lambda: None)
        print(half, name, epoch, json.dumps(terms), f"{time.monotonic() - began:.0f} s", flush=True)
    Recogniser.of(network, data, FrontEndSettings()).save_pretrained(folder)


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("half", choices=HALVES)
    parser.add_argument("names", nargs="+", help=f"{', '.join(RECOGNISERS)}, with -a, -b …")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs (default: %(default)s)")
    parser.add_argument(
        "--without", type=int, metavar="GROUP", help="group of the half to leave out"
    )
    given = parser.parse_args()
    if given.without and given.without not in HALVES[given.half]:
        parser.error(f"--without {given.without}: expected one of {HALVES[given.half]}")
    torch.set_num_threads(1)
    for name in given.names:
        train(given.half, name, given.epochs, given.without)


if __name__ == "__main__":
    main()
