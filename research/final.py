"""Train a preset of the package on a half of RAVDESS, as docs/research.md settled it.

    python research/final.py ssad-plus last --seeds 0 1 2

leaves `runs/research/final/ssad-plus/last/0/model`, …. All twelve speakers of the half train for
the preset's number of epochs: there is nobody left to stop by. The surrogate is the VGG-16 that
`research/surrogates.py` trained on the same speakers. Killed, it begins the seed anew.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from halves import HALVES, dataset, speakers
from materials import surrogate

from servax.features import FrontEndSettings
from servax.models import new_restorer
from servax.purifier import PRESETS, Purifier, SurrogateTrainer, SurrogateTraining
from servax.training import Compute, global_seed

FOLDER = Path("runs/research/final")
SURROGATE = "vgg16-a"


def train(name: str, half: str, seed: int) -> None:
    """Leave the purifier of a preset, a half and a seed in its folder."""
    folder = FOLDER / name / half / str(seed) / "model"
    if (folder / "settings.json").is_file():
        print(f"{folder}: is there")
        return
    preset, data = PRESETS[name], dataset(half, scheme="native")
    if not isinstance(preset.training, SurrogateTraining):
        raise SystemExit(f"{name}: expected a preset that is trained through surrogates")
    with global_seed(seed, "weights"):
        network = new_restorer(preset.network)
    trainer = SurrogateTrainer(
        network,
        [surrogate(half, SURROGATE)],
        data,
        data,  # never asked: every epoch is trained
        preset.training,
        seed=seed,
        compute=Compute("cpu"),
    )
    began = time.monotonic()
    for epoch in range(preset.training.epochs):
        terms = trainer.train_epoch(epoch, lambda: None)
        print(name, half, seed, epoch, json.dumps(terms), f"{time.monotonic() - began:.0f} s")
    purifier = Purifier(network, data.scale, FrontEndSettings(), speakers(half))
    purifier.save_pretrained(folder)


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("half", choices=HALVES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        train(given.preset, given.half, seed)


if __name__ == "__main__":
    main()
