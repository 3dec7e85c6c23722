"""Put the purifier of one corpus before the recogniser of another, and say what is left of it.

    python research/across.py

Each recogniser is attacked on a group of speakers that it has not heard, obliviously (k up to 15)
and on 32 utterances through the purifier (PGD-15); each purifier stands before it as it is. Corpora
are aligned at the level that becomes 1: a purifier hears what the recogniser hears. Where purifier
and recogniser are of one corpus, neither has heard the group. Leaves `results/across/figures.json`;
docs/tasks.md shows it.

RAVDESS and synthetic networks are the packaged ones; those of FSDD come from
`servax run recipes/fsdd_digits_loso.yaml`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark import Attacker, figures_of, measure
from entries import Protocol
from subjects import defence_of, target_of

from servax.corpora import load
from servax.evaluation.records import UNDEFENDED
from servax.experiments.provenance import provenance
from servax.files import json_text, write_whole

OUT = Path("results/across/figures.json")
GRID = Protocol(steps=15)
ATTACKER = Attacker(radii=(0.02,), steps=15, restarts=1, utterances=32)


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
        subject = target_of(task.recogniser, corpus, corpus.folds(task.groups), group=task.group)
        purifiers = {
            of: {0: defence_of(each.purifier, subject, seed=0)} for of, each in TASKS.items()
        }
        records = measure(subject, {UNDEFENDED: {}, **purifiers}, GRID, ATTACKER)
        for of, rows in records.items():
            told = figures_of(rows, of, **measurement(subject.name, origin))
            figures = {key: asdict(getattr(told, key)) for key in ("clean", "fgsm", "pgd")}
            found.append(
                {
                    "recogniser": name,
                    "purifier": of,
                    "utterances": len(subject.test),
                    **figures,
                    "adaptive": [asdict(each) for each in told.adaptive],
                }
            )
            print(json.dumps(found[-1]), flush=True)
    write_whole(OUT, f"{json_text({'figures': found, **origin}, indent=1)}\n".encode())


def measurement(target: str, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `figures_of` is told of a measurement."""
    return {
        "target": target,
        "groups": "tuning",
        "command": str(origin["command"]),
        "commit": str(origin["commit"]),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


if __name__ == "__main__":
    main()
