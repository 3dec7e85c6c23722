"""Train the recognisers that the trials and the benchmark attack, as `servax run` would.

    python research/targets.py vgg16 1 2 3 4 5 6
    python research/targets.py crnn 4 5 6

trains one network for each group of speakers held out, the settings those of
`recipes/ravdess_paper_cpu.yaml`, into `runs/ravdess_plus`. What is there is not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from servax.experiments import load_recipe
from servax.experiments.fold import RunData
from servax.experiments.logmel_fold import FoldPlan
from servax.models import RECOGNISERS
from servax.stages import Watcher

RECIPE = Path("recipes/ravdess_paper_cpu.yaml")
RUN = Path("runs/ravdess_plus")


class Lines(Watcher):
    """Says what begins."""

    def start(self, stage: str, steps: int) -> None:
        """Say it."""
        print(f"{stage}: {steps} steps", flush=True)


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=RECOGNISERS)
    parser.add_argument("groups", nargs="+", type=int, choices=range(1, 7))
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(load_recipe(RECIPE), network=given.network, held_out=(1, 2, 3, 4, 5, 6))
    data = RunData.of(recipe, RUN, Lines())
    for group in given.groups:
        task = FoldPlan(data, group - 1, 0, {}).target
        task.perform(Lines())
        print(f"{given.network} of group {group}: {task.stage.folder / 'model'}", flush=True)


if __name__ == "__main__":
    main()
