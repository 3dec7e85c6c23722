"""Attack defences by who knows them: long PGD with restarts, and Auto-PGD.

    python research/adaptive.py undefended blur-noise=trial:blur-noise --groups 1 2 \
        pgd-at=runs/ravdess_paper_cpu/models/fold-{group}-pgd-at \
        ssad-plus=runs/research/final/ssad-plus/last/0/model

Each system is `undefended`, or `NAME=WHAT` as for `research/benchmark.py`, or `NAME=trial:TRIAL`
for the network of a trial. An attack takes exact gradients through the whole system; before noise
it also averages the gradient over draws (EOT). Utterances: so many of each group, classes and
speakers in equal shares. Leaves `results/adaptive/NAME.json`; docs/research.md shows them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from halves import corpus, folds
from materials import folder
from subjects import defence_of, part, target_of
from torch import nn
from trial import TRIALS, reused

from servax.attacks import APGD, PGD, Restarts
from servax.attacks.base import Attack
from servax.defences import Defended, ExpectationOverDraws
from servax.evaluation.dataset import chosen
from servax.evaluation.metrics import uar
from servax.experiments.provenance import provenance
from servax.features import Dataset
from servax.files import json_text, write_whole
from servax.training import generator

RESULTS = Path("results/adaptive")
UTTERANCES = 32
"""Of each group."""
BATCH = 16


def attacks(radius: float, *, noisy: bool) -> dict[str, tuple[Attack, int]]:
    """Return the attacks of a radius with the draws that each gradient averages."""
    pgd = PGD(step=radius / 4, epsilon=radius, steps=100, random_start=True, early_stop=True)
    short = PGD(step=radius / 4, epsilon=radius, steps=20, random_start=True, early_stop=True)
    found: dict[str, tuple[Attack, int]] = {
        "PGD-100, 5 starts": (Restarts(pgd, 5), 1),
        "APGD-100, cross-entropy": (APGD(epsilon=radius, steps=100), 1),
        "APGD-100, DLR": (APGD(epsilon=radius, steps=100, loss="dlr"), 1),
    }
    if noisy:
        found["PGD-20, EOT 8"] = (short, 8)
    return found


def system_of(what: str, group: int) -> tuple[nn.Module, bool, Dataset]:
    """Return a system, whether it is noisy, and the utterances it is attacked on."""
    subject = target_of(str(folder("vgg16", group)), corpus("four"), folds(), group=group)
    test = part(subject, chosen(subject.test.corpus, UTTERANCES, seed=0))
    kind, _, name = what.partition(":")
    if not what:
        return subject.system.model, False, test
    if kind == "trial":
        whole = reused(TRIALS[name], name).requires_grad_(False)
        return Defended(subject.system.model, whole).eval(), bool(TRIALS[name].noise), test
    return defence_of(what, subject, seed=0).model, False, test


def left(
    system: nn.Module, noisy: bool, test: Dataset, radius: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which utterances (N,) are right, clean and under each attack."""
    clean, under = [], {name: [] for name in attacks(radius, noisy=noisy)}
    for number, batch in enumerate(test.batches(BATCH)):
        with torch.no_grad():
            clean.append((system(batch.x).argmax(1) == batch.y).numpy())
        for name, (attack, draws) in attacks(radius, noisy=noisy).items():
            model = ExpectationOverDraws(system, draws) if draws > 1 else system
            x = attack(model, batch.x, batch.y, generator=generator(0, name, number))
            with torch.no_grad():
                under[name].append((system(x).argmax(1) == batch.y).numpy())
    return np.concatenate(clean), {name: np.concatenate(each) for name, each in under.items()}


def percent(test: np.ndarray, right: np.ndarray) -> float:
    """Return the UAR in percent, whatever a wrong one was taken for."""
    return round(100 * uar(test, np.where(right, test, -1)), 2)


def main() -> None:
    """Attack what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="+", metavar="NAME=WHAT")
    parser.add_argument("--groups", nargs="+", type=int, default=[1])
    parser.add_argument("--radii", nargs="+", type=float, default=[0.005, 0.02])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for each in given.systems:
        name, _, what = each.partition("=")
        began, figures = time.monotonic(), []
        built = [system_of(what.replace("{group}", str(group)), group) for group in given.groups]
        y = np.concatenate([test.labels.numpy() for _, _, test in built])
        for radius in given.radii:
            clean, under = [], {}
            for system, noisy, test in built:
                right, found = left(system, noisy, test, radius)
                clean.append(right)
                for attack, kept in found.items():
                    under.setdefault(attack, []).append(kept)
            parts = {attack: np.concatenate(kept) for attack, kept in under.items()}
            parts["worst"] = np.all(list(parts.values()), axis=0)
            uars = {attack: percent(y, right) for attack, right in parts.items()}
            figures.append(
                {"radius": radius, "clean": percent(y, np.concatenate(clean)), "under": uars}
            )
            print(name, json.dumps(figures[-1]), flush=True)
        told = {
            "system": name,
            "what": what,
            "groups": given.groups,
            "utterances": len(y),
            "figures": figures,
            "seconds": round(time.monotonic() - began),
            **provenance(shlex.join(["python", *sys.argv])),
        }
        write_whole(RESULTS / f"{name}.json", f"{json_text(told, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
