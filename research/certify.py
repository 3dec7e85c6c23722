"""Certify noise-then-denoise: how much of an attack is provably harmless, and how much that is.

    python research/certify.py noise-denoise

stands the network of a trial before the VGG-16 of group 1, lets the trial's noise smooth the two
(`servax.defences.certify`), and leaves `results/certificate/<trial>.json`.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch
from halves import corpus, folds
from materials import folder
from subjects import part, target_of
from trial import TRIALS, reused

from servax.defences import Defended, certify
from servax.evaluation.dataset import chosen
from servax.experiments.provenance import provenance
from servax.files import json_text, write_whole
from servax.training import generator

RESULTS = Path("results/certificate")
RADII = (0.0, 0.05, 0.1, 0.2)
GROUP, UTTERANCES, DRAWS = 1, 32, 400


def main() -> None:
    """Certify the trial that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", choices=[name for name, each in TRIALS.items() if each.noise])
    name = parser.parse_args().trial
    trial = TRIALS[name]
    if trial.blur > 1:
        raise SystemExit(f"{name}: expected a trial whose noise comes first")
    torch.set_num_threads(1)
    purifier = reused(replace(trial, noise=0.0), name)  # `certify` draws the noise
    subject = target_of(str(folder("vgg16", GROUP)), corpus("four"), folds(), group=GROUP)
    test = part(subject, chosen(subject.test.corpus, UTTERANCES, seed=0))
    system = Defended(subject.system.model, purifier).eval()
    found, labels = [], []
    for batch in test.batches(8):
        found.append(
            certify(
                system,
                batch.x,
                standard_deviation=trial.noise,
                draws_to_select=50,
                draws_to_estimate=DRAWS,
                generator=generator(0, "certify", len(found)),
                batch_size=25,
            )
        )
        labels.append(batch.y)
        cells = batch.x[0].numel()
        print(found[-1].prediction.tolist(), found[-1].radius.tolist(), flush=True)
    count = sum(len(y) for y in labels)
    shares = {
        str(radius): sum(
            each.certified_accuracy(y, radius) * len(y)
            for each, y in zip(found, labels, strict=True)
        )
        / count
        for radius in RADII
    }
    told = {
        "trial": name,
        "group": GROUP,
        "utterances": count,
        "draws": DRAWS,
        "certified accuracy by Euclidean radius": shares,
        "abstained": sum(int(each.abstained.sum()) for each in found) / count,
        "largest radius": max(float(each.radius.max()) for each in found),
        "norm of a change of .003 in every cell": 0.003 * math.sqrt(cells),
        **provenance(shlex.join(["python", *sys.argv])),
    }
    write_whole(RESULTS / f"{name}.json", f"{json_text(told, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
