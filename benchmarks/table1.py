"""The evaluation part of Table 1 and Figure 2 of the paper, by servax and by torchattacks.

Both attack the same recogniser with the same tensors in this process and score the bare target and
the purified one in every cell: clean, FGSM at 5 ε, PGD at k = 1 ... 30, by an attacker who knows
nothing of the purifier. torchattacks is called once per cell, as its interface asks. servax takes
one gradient for all ε and meets every k on one trajectory: 31 gradients a batch, not 470.

servax also folds batch norms into convolutions before it attacks (`servax.models.frozen`). With
``--reference frozen`` torchattacks is handed that faster network too: what remains is the order of
work alone. With ``--reference plain`` it attacks the network as it was trained, as without servax.

Batches are timed one after another, and the side that begins alternates, so that other work on the
machine meets both alike; processor time is told beside the time on the clock.

Needs ``pip install --no-deps torchattacks`` (its pinned requirements would take the environment
back).

    python benchmarks/table1.py --model runs/ravdess_quick/models/fold-1-target \
        --purifier runs/ravdess_quick/models/fold-1-ssad --utterances 32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchattacks  # type: ignore[import-untyped]
from torch import Tensor, nn

from servax.corpora import Corpus, cache_folder, load
from servax.errors import ServaxError, SettingError
from servax.evaluation import uar
from servax.evaluation.calibration import spread
from servax.evaluation.grid import AttackGrid
from servax.evaluation.protocol import Defence, Identity, ObliviousAttack, oblivious
from servax.experiments.provenance import provenance
from servax.experiments.training import Recogniser, load_recogniser
from servax.features import Dataset, FrontEnd, extract
from servax.models import frozen
from servax.purifier import Purifier
from servax.training import Compute

TARGET_RATIO = 5.0
"""How many times faster servax has to be."""
TARGET_POINTS = 0.5
"""How far the UARs of a cell may lie apart, in points."""
PURIFIER = "purifier"
ATTACKS: tuple[ObliviousAttack, ...] = ("none", "fgsm", "pgd")

Cell = tuple[str, str, float]
"""Defence, attack, strength."""


class Counted(nn.Module):
    """A classifier that counts how often a gradient with respect to its input is prepared."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.gradients = 0
        self.eval()  # torchattacks puts a model back into the mode it found, with all its parts

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C)."""
        self.gradients += x.requires_grad and torch.is_grad_enabled()
        logits: Tensor = self.network(x)
        return logits


@dataclass
class Side:
    """What one of the two libraries took and predicted."""

    target: Counted
    seconds: list[float] = field(default_factory=list)
    """On the clock, one for each batch."""
    cpu_seconds: float = 0.0
    """Of this process."""
    predictions: dict[Cell, list[int]] = field(default_factory=dict)

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        """Add the seconds of the block, once the device has done all of it."""
        begin, busy = time.perf_counter(), time.process_time()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds.append(time.perf_counter() - begin)
        self.cpu_seconds += time.process_time() - busy

    def told(self) -> dict[str, float]:
        """Return the figures of this side."""
        return {
            "seconds": sum(self.seconds),
            "cpu_seconds": self.cpu_seconds,
            "gradients": self.target.gradients,
        }

    def add(self, cell: Cell, predicted: list[int]) -> None:
        """Keep the predictions of one batch."""
        self.predictions.setdefault(cell, []).extend(predicted)


def by_servax(
    side: Side, purifier: nn.Module, part: Dataset, grid: AttackGrid, device: torch.device
) -> None:
    """Attack and score one batch as `servax run` does."""
    position = {label: i for i, label in enumerate(part.corpus.labels)}
    for attack in ATTACKS:
        frame = oblivious(
            attack,
            side.target,
            {PURIFIER: Defence(purifier)},
            part,
            grid,
            Identity("target", 1, 0),
            batch_size=len(part),
            compute=Compute(str(device)),
        )
        for (defence, strength), rows in frame.groupby(["defence", "strength"], sort=False):
            predicted = [position[label] for label in rows["prediction"]]
            side.add((str(defence), attack, float(str(strength))), predicted)


def by_torchattacks(
    side: Side, purifier: nn.Module, part: Dataset, grid: AttackGrid, device: torch.device
) -> None:
    """Attack and score one batch with a call of torchattacks for each cell."""
    (batch,) = part.batches(len(part), device)
    target, x, y = side.target, batch.x, batch.y
    attacks: dict[tuple[str, float], Callable[[Tensor, Tensor], Tensor]] = {
        ("fgsm", epsilon): torchattacks.FGSM(target, eps=epsilon) for epsilon in grid.epsilons
    }
    for k in range(1, grid.steps + 1):
        attacks["pgd", float(k)] = torchattacks.PGD(
            target, eps=grid.radius, alpha=grid.step, steps=k, random_start=False
        )
    inputs = {("none", 0.0): x} | dict.fromkeys(attacks)
    for (attack, strength), given in inputs.items():
        moved = x if given is x else attacks[attack, strength](x, y)
        with torch.inference_mode():
            for defence, seen in (("undefended", moved), (PURIFIER, purifier(moved))):
                predicted = target(seen).argmax(dim=1).tolist()
                side.add((defence, attack, strength), predicted)


def compare(
    recogniser: Recogniser,
    purifier: Purifier,
    test: Corpus,
    grid: AttackGrid,
    *,
    batch_size: int,
    compute: Compute,
    reference: str,
) -> dict[str, Any]:
    """Return seconds, gradients and UARs of both sides."""
    device = compute.resolve()
    features = extract(test, FrontEnd(recogniser.front_end), folder=cache_folder() / "features")
    network = frozen(recogniser.network).to(device)
    cleaner = purifier.frozen().to(device)
    plain = recogniser.network.requires_grad_(False).to(device)
    ours = Side(Counted(network))
    theirs = Side(Counted(network if reference == "frozen" else plain))
    parts = [
        Dataset(test.subset(np.arange(len(test)) // batch_size == i), features, recogniser.scale)
        for i in range(-(-len(test) // batch_size))
    ]
    warm_up(network, cleaner, parts[0], device)
    for i, part in enumerate(parts):
        turns = [(ours, by_servax), (theirs, by_torchattacks)]
        for side, attack_and_score in turns if i % 2 == 0 else turns[::-1]:
            with side.timed(device):
                attack_and_score(side, cleaner, part, grid, device)
        print(f"batch {i + 1}/{len(parts)}: {_speeds(ours, theirs)}", file=sys.stderr, flush=True)
    table = cells(ours, theirs, test.label_index)
    slow, quick = sum(theirs.seconds), sum(ours.seconds)
    return {
        "utterances": len(test),
        "batches": len(parts),
        "reference": reference,
        "sides": {"servax": ours.told(), "torchattacks": theirs.told()},
        "ratio": slow / quick,
        "ratio_cpu": theirs.cpu_seconds / ours.cpu_seconds,
        "largest_uar_difference_points": float(table["difference"].abs().max()),
        "different_predictions": int(table["different_predictions"].sum()),
        "predictions": len(test) * len(table),
        "cells": table.to_dict("records"),
    }


def warm_up(network: nn.Module, cleaner: nn.Module, part: Dataset, device: torch.device) -> None:
    """Let the device choose its kernels before a clock runs."""
    (batch,) = part.batches(len(part), device)
    x = batch.x.clone().requires_grad_(True)
    network(x).sum().backward()
    with torch.inference_mode():
        network(cleaner(batch.x))


def cells(ours: Side, theirs: Side, labels: np.ndarray) -> pd.DataFrame:
    """Return the UAR (%) of each cell on both sides."""
    if set(ours.predictions) != set(theirs.predictions):
        raise ServaxError("the two sides did not score the same cells: a fault of this benchmark.")
    rows = []
    for cell, predicted in ours.predictions.items():
        other = theirs.predictions[cell]
        a, b = (100 * uar(labels, np.array(column)) for column in (predicted, other))
        different = int(np.sum(np.array(predicted) != np.array(other)))
        rows.append((*cell, a, b, a - b, different))
    columns = ["defence", "attack", "strength", "servax", "torchattacks", "difference"]
    return pd.DataFrame(rows, columns=[*columns, "different_predictions"])


def _speeds(ours: Side, theirs: Side) -> str:
    quick, slow = ours.seconds[-1], theirs.seconds[-1]
    return f"servax {quick:.1f} s, torchattacks {slow:.1f} s, {slow / quick:.1f} times"


def held_out(corpus: Corpus, *, groups: int, index: int, utterances: int) -> Corpus:
    """Return `utterances` of one group of speakers, spread evenly over all of its utterances."""
    folds = corpus.folds(groups)
    if not 1 <= index <= len(folds):
        raise SettingError("held_out", index, f"a group from 1 to {len(folds)}")
    return spread(folds[index - 1].test, utterances)


def main() -> int:
    """Run the benchmark; 0 when both targets are met."""
    given = arguments()
    torch.set_num_threads(given.threads)
    grid = AttackGrid(steps=given.steps, adaptive_steps=given.steps)
    recogniser = load_recogniser(given.model)
    purifier = Purifier.from_pretrained(given.purifier)
    if purifier.scale.settings != recogniser.scale.settings:
        raise SettingError("purifier", str(given.purifier), "one of the same fold as the model")
    corpus = load(given.corpus, given.root, scheme=given.scheme)
    if recogniser.labels != corpus.labels:
        raise SettingError(
            "model", str(given.model), f"one with the labels {', '.join(corpus.labels)}"
        )
    test = held_out(corpus, groups=given.groups, index=given.held_out, utterances=given.utterances)
    compute = Compute(given.device)
    origin = dict(provenance(" ".join(["python", *sys.argv])))
    origin["versions"] = {**origin["versions"], "torchattacks": version("torchattacks")}
    found = {
        **origin,
        "threads": given.threads,
        "device": str(compute.resolve()),
        "width": recogniser.network.settings.width,
        "pgd": {"step": grid.step, "radius": grid.radius, "steps": grid.steps},
        **compare(
            recogniser,
            purifier,
            test,
            grid,
            batch_size=given.batch_size,
            compute=compute,
            reference=given.reference,
        ),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    return show(found, given.out)


def show(found: dict[str, Any], out: Path) -> int:
    """Print the figures; 0 when both targets are met."""
    print(f"{found['machine']}; {found['threads']} threads, device {found['device']}")
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    print(f"commit {found['commit']}, {found['utterances']} utterances, width {found['width']}")
    for side, f in found["sides"].items():
        each = f["gradients"] / found["batches"]
        print(
            f"{side:>13}: {f['seconds']:8.1f} s, {f['cpu_seconds']:8.1f} s of the processor, "
            f"{each:g} gradients a batch"
        )
    apart = found["largest_uar_difference_points"]
    print(
        f"{found['ratio']:.1f} times faster (target {TARGET_RATIO:g}), {found['ratio_cpu']:.1f} "
        f"times by processor time; torchattacks on the {found['reference']} network"
    )
    print(
        f"UARs of {len(found['cells'])} cells differ by at most {apart:.2f} points "
        f"(target {TARGET_POINTS}); {found['different_predictions']} of {found['predictions']} "
        "predictions differ"
    )
    print(f"written: {out}")
    return 0 if found["ratio"] >= TARGET_RATIO and apart <= TARGET_POINTS else 1


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Table 1 and Figure 2: servax and torchattacks.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a trained recogniser")
    add("--purifier", type=Path, required=True, help="folder of a purifier of the same fold")
    add("--corpus", default="ravdess", help="name of a corpus, or a manifest")
    add("--root", default=None, help="folder of the corpus; default $SERVAX_DATA/<name>")
    add("--scheme", default="four", help="label scheme")
    add("--groups", type=int, default=6, help="groups of speakers")
    add("--held-out", type=int, default=1, help="which group is attacked, from 1")
    add("--utterances", type=int, default=32, help="how many of it, spread evenly")
    add("--batch-size", type=int, default=16, help="utterances attacked together")
    add("--steps", type=int, default=30, help="largest k of PGD")
    add("--threads", type=int, default=1, help="threads of torch, for both sides")
    add(
        "--reference",
        choices=("frozen", "plain"),
        default="frozen",
        help="which network torchattacks is given",
    )
    add("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    add("--out", type=Path, default=Path("runs/benchmarks/table1.json"), help="JSON to write")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"table1: {error}")
