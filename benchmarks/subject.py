"""Who is attacked in benchmarks: a trained recogniser and real clips it has not heard.

The recognisers of widths 16 and 64 behind the kept figures were trained by

    servax train recogniser ravdess --width 16 --epochs 16 --seed 1 -o runs/bench-16
    servax train recogniser ravdess --width 64 --epochs 6 --seed 1 -o runs/bench-64
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from servax.corpora import Corpus, cache_folder, load
from servax.errors import SettingError
from servax.evaluation import uar
from servax.evaluation.calibration import spread
from servax.features import Dataset, FrontEnd, extract
from servax.models import frozen
from servax.recognition import Recogniser

Batches = list[tuple[Tensor, Tensor]]
"""Inputs (B, 1, M, F) and classes (B,) of each batch."""


@dataclass(frozen=True)
class Subject:
    """A recogniser and the clips it is attacked on."""

    recogniser: Recogniser
    plain: nn.Module
    """The network as it was trained, in evaluation mode, without parameter gradients."""
    folded: nn.Module
    """The same, as servax attacks it (`servax.models.frozen`)."""
    batches: Batches
    clips: Corpus
    """Of all batches."""

    def clean_uar(self) -> float:
        """Return the UAR (%) on the clips as they are."""
        return self.uar_of([x for x, _ in self.batches])

    def uar_of(self, moved: list[Tensor]) -> float:
        """Return the UAR (%) of the trained network on inputs that stand for the batches."""
        with torch.inference_mode():
            predicted = [self.plain(x).argmax(dim=1) for x in moved]
        labels = torch.cat([y for _, y in self.batches[: len(moved)]])
        return 100.0 * uar(labels.numpy(), torch.cat(predicted).numpy())


class Turns:
    """A contender that meets the next batch each time it is called."""

    def __init__(
        self, run: Callable[[Tensor, Tensor], Any], batches: Batches, *, warm_up: int = 1
    ) -> None:
        self.run = run
        # What is run before the clock starts meets the last batches: the first round has the first.
        first = -warm_up % len(batches)
        self.batches = cycle([*batches[first:], *batches[:first]])

    def __call__(self) -> Any:
        """Return what the run makes of the next batch."""
        return self.run(*next(self.batches))


def add_subject(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Add the options that say who is attacked."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a trained VGG-16")
    add("--corpus", default="ravdess", help="name of a corpus, or a manifest")
    add("--root", default=None, help="folder of the corpus; default $SERVAX_DATA/<name>")
    add("--scheme", default="four", help="label scheme")
    add("--groups", type=int, default=6, help="groups of speakers")
    add("--held-out", type=int, default=1, help="which group is attacked, from 1")
    add("--batch-size", type=int, default=batch_size, help="clips attacked together")


def subject(given: argparse.Namespace, *, batches: int) -> Subject:
    """Return the recogniser of the options and so many batches of held-out clips.

    Raises:
        SettingError: The model has other labels than the corpus.
        ServaxError: The model or the corpus cannot be read.
    """
    recogniser = Recogniser.from_pretrained(given.model)
    corpus = load(given.corpus, given.root, scheme=given.scheme)
    if recogniser.labels != corpus.labels:
        raise SettingError(
            "model", str(given.model), f"one with the labels {', '.join(corpus.labels)}"
        )
    size = given.batch_size
    clips = held_out(corpus, groups=given.groups, index=given.held_out, utterances=size * batches)
    # Every batch has all classes and speakers: clip i of the evenly spread ones is in batch i % n.
    order = np.argsort(np.arange(len(clips)) % batches, kind="stable")
    features = extract(clips, FrontEnd(recogniser.front_end), folder=cache_folder() / "features")
    data = Dataset(clips, features, recogniser.scale)
    parts = [
        data.batch(order[i : i + size], torch.device("cpu")) for i in range(0, len(order), size)
    ]
    return Subject(
        recogniser=recogniser,
        plain=recogniser.network.eval().requires_grad_(False),
        folded=frozen(recogniser.network),
        batches=[(part.x, part.y) for part in parts],
        clips=clips,
    )


def held_out(corpus: Corpus, *, groups: int, index: int, utterances: int) -> Corpus:
    """Return `utterances` of one group of speakers, spread evenly over all of its utterances."""
    folds = corpus.folds(groups)
    if not 1 <= index <= len(folds):
        raise SettingError("held_out", index, f"a group from 1 to {len(folds)}")
    return spread(folds[index - 1].test, utterances)
