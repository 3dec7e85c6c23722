"""The targets of the trials and the inputs that attack them, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from halves import features, folds
from subjects import group_of, kind_of
from torch import nn

from servax.attacks import FGSM, PGD
from servax.features import Dataset
from servax.models import frozen
from servax.recognition import Recogniser

RUN = Path("runs/ravdess_plus/stages")
ATTACKS = Path("runs/research/attacks")
SURROGATES = Path("runs/research/surrogates")
EPSILONS = (0.003, 0.006, 0.009, 0.012, 0.015)
STEPS = (3, 6, 9, 12, 15)
GRID = ("clean", *(f"fgsm-{e}" for e in EPSILONS), *(f"pgd-{k}" for k in STEPS))
"""Clean, FGSM and PGD as in Table 1 of the paper; step .003, radius .02."""


def surrogate(half: str, name: str) -> nn.Module:
    """Return a surrogate that `surrogates.py` trained."""
    return Recogniser.from_pretrained(SURROGATES / half / name).network


@dataclass(frozen=True)
class Target:
    """A recogniser under attack with the labels of its held-out group."""

    name: str
    group: int
    network: nn.Module
    labels: np.ndarray

    def undefended(self, condition: str) -> np.ndarray:
        """Return its predictions (N,) without a defence."""
        return np.load(ATTACKS / f"{self.name}-{self.group}-{condition}-bare.npy")


def folder(name: str, group: int) -> Path:
    """Return where the target of a group lies: the stage of `servax run` for this fold."""
    for place in sorted(RUN.glob("target-*/model")):
        kind = kind_of(Recogniser.from_pretrained(place).network)
        if kind == name and group_of(str(place), folds()) == group:
            return place
    raise SystemExit(f"no {name} of group {group} below {RUN}: train it first")


@cache
def targets(name: str, group: int) -> Target:
    """Return the target of a group, its attacks computed."""
    found = Recogniser.from_pretrained(folder(name, group))
    network = frozen(found.network)
    data = Dataset(folds()[group - 1].test, features("four"), found.scale)
    target = Target(name, group, network, data.labels.numpy())
    if not (ATTACKS / f"{name}-{group}-{GRID[-1]}-bare.npy").is_file():
        _attack(target, data)
    return target


def attacked(name: str, group: int, condition: str) -> np.ndarray:
    """Return the inputs (N, 1, M, F) of a condition of the grid."""
    return np.load(ATTACKS / f"{name}-{group}-{condition}.npy", mmap_mode="r")


def _attack(target: Target, data: Dataset) -> None:
    ATTACKS.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[np.ndarray]] = {condition: [] for condition in GRID}
    bare: dict[str, list[np.ndarray]] = {condition: [] for condition in GRID}
    for batch in data.batches(16):
        inputs = {"clean": batch.x}
        for epsilon in EPSILONS:
            inputs[f"fgsm-{epsilon}"] = FGSM(epsilon=epsilon)(target.network, batch.x, batch.y)
        pgd = PGD(step=0.003, epsilon=0.02, steps=max(STEPS))
        for k, x in enumerate(pgd.trajectory(target.network, batch.x, batch.y), start=1):
            if k in STEPS:
                inputs[f"pgd-{k}"] = x
        for condition, x in inputs.items():
            found[condition].append(x.numpy())
            with torch.inference_mode():
                bare[condition].append(target.network(x).argmax(1).numpy())
    for condition in GRID:
        stem = f"{target.name}-{target.group}-{condition}"
        np.save(ATTACKS / f"{stem}.npy", np.concatenate(found[condition]))
        np.save(ATTACKS / f"{stem}-bare.npy", np.concatenate(bare[condition]))
