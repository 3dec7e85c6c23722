"""Put the purifier of one corpus before the recogniser of another, and say what is left of it.

    python research/across.py

Each recogniser is attacked once, obliviously, on a group of speakers that it has not heard; each
purifier stands before it as it is. Corpora are aligned at the level that becomes 1: a purifier
hears what the recogniser hears. Where purifier and recogniser are of one corpus, neither has heard
the group. Leaves `results/across/figures.json`; docs/tasks.md shows it.

RAVDESS and synthetic networks are the packaged ones; those of FSDD come from
`servax run recipes/fsdd_digits_loso.yaml`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from servax.benchmark.figures import Measurement, figures_of
from servax.benchmark.systems import build_defence, subject_of
from servax.corpora import load
from servax.evaluation.grid import AttackGrid
from servax.evaluation.protocol import OBLIVIOUS, UNDEFENDED, Identity, oblivious
from servax.evaluation.records import write_atomically
from servax.experiments.provenance import provenance

OUT = Path("results/across/figures.json")
GRID = AttackGrid(steps=15, adaptive_steps=15)


@dataclass(frozen=True)
class Task:
    """A recogniser with speakers that it has not heard."""

    scheme: Any
    groups: Any
    group: int
    recogniser: str
    purifier: str


FSDD = "runs/fsdd_digits_loso/models/fold-1-"
TASKS = {
    "ravdess": Task("four", 6, 1, "crnn-ravdess", "ssad-plus-ravdess"),
    "synthetic": Task("four", 6, 1, "crnn-synthetic", "ssad-plus-synthetic"),
    "fsdd": Task("native", "speaker", 1, f"{FSDD}target", f"{FSDD}ssad-plus"),
}


def main() -> None:
    """Measure every purifier before every recogniser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance(shlex.join(["python", *sys.argv]))
    found = []
    for name, task in TASKS.items():
        corpus = load(name, scheme=task.scheme)
        subject = subject_of(task.recogniser, corpus, corpus.folds(task.groups), group=task.group)
        purifiers = {
            of: build_defence(each.purifier, subject, seed=0).defence for of, each in TASKS.items()
        }
        identity = Identity(subject.name, subject.group, 0)
        rows = pd.concat(
            [
                oblivious(attack, subject.network, purifiers, subject.test, GRID, identity)
                for attack in OBLIVIOUS
            ],
            ignore_index=True,
        )
        for of in (UNDEFENDED, *TASKS):
            told = figures_of(rows, of, measurement(subject.name, origin))
            figures = {key: asdict(getattr(told, key)) for key in ("clean", "fgsm", "pgd")}
            found.append(
                {"recogniser": name, "purifier": of, "utterances": len(subject.test)} | figures
            )
            print(json.dumps(found[-1]), flush=True)
    write_atomically(OUT, (json.dumps({"figures": found, **origin}, indent=1) + "\n").encode())


def measurement(target: str, origin: Mapping[str, Any]) -> Measurement:
    """Return what `figures_of` is told of a measurement."""
    return Measurement(
        target=target,
        groups="tuning",
        command=str(origin["command"]),
        commit=str(origin["commit"]),
        date="",
    )


if __name__ == "__main__":
    main()
