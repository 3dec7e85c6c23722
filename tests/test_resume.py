"""A training, interrupted anywhere, ends with the same weights bit for bit."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from servax.features import Dataset, SpecAugment
from servax.models import (
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    FrameTransformer,
    feature_extractor,
    frozen,
)
from servax.purifier import SSA, PurifierTrainer, PurifierTraining
from servax.training import (
    Compute,
    Progress,
    RecogniserTrainer,
    RecogniserTraining,
    Trainable,
    fit,
    global_seed,
    load_checkpoint,
    read_log,
)

Build = Callable[..., Dataset]
Parts = tuple[Dataset, Dataset]
EPOCHS = 5
RECOGNISER = RecogniserTraining(
    epochs=EPOCHS, patience=5, batch_size=4, augment=SpecAugment(time_width=10, mel_width=6)
)
PURIFIER = PurifierTraining(
    ssa=SSA(steps=2), tap="conv2_2", epochs=EPOCHS, patience=5, batch_size=4, warmup_steps=7
)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def parts(make_dataset: Build) -> Parts:
    # 13 utterances in batches of 4: the one left out differs from epoch to epoch.
    return make_dataset([0, 1, 2, 3] * 3 + [0]), make_dataset([0, 1, 2, 3] * 2, seed=1)


def recogniser(parts: Parts) -> Trainable:
    return RecogniserTrainer(VGG16(4, 2), *parts, RECOGNISER, seed=3, compute=Compute("cpu"))


def purifier(parts: Parts) -> Trainable:
    return PurifierTrainer(
        FrameTransformer(mels=32, blocks=1, heads=4, feedforward=16),
        Discriminator(DiscriminatorSettings(channels=(2, 3), hidden=(4,))),
        feature_extractor(frozen(VGG16(4, 2)), "conv2_2"),
        *parts,
        PURIFIER,
        seed=3,
        compute=Compute("cpu"),
    )


Make = Callable[[Parts], Trainable]
BOTH = [(recogniser, RECOGNISER), (purifier, PURIFIER)]


@dataclass(frozen=True)
class Whole:
    """A training that nobody disturbs, and all that trains it once more."""

    make: Make
    settings: Any
    parts: Parts
    folder: Path
    weights: dict[str, Any]


@pytest.fixture(scope="module", params=BOTH, ids=["recogniser", "purifier"])
def whole(
    request: pytest.FixtureRequest, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    (make, settings), folder = request.param, tmp_path_factory.mktemp("whole")
    return Whole(make, settings, parts, folder, train(make, settings, parts, folder))


def train(
    make: Make,
    settings: RecogniserTraining | PurifierTraining,
    parts: Parts,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Train from wherever `folder` is and return the best weights."""
    with global_seed(3, "weights"):
        trainer = make(parts)
    fit(trainer, settings.schedule(), folder, seed=3, settings="same", progress=progress)
    return trainer.weights()


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    """Compare tensors bit for bit, whatever they are wrapped in."""
    if isinstance(theirs, dict):
        assert sorted(ours, key=str) == sorted(theirs, key=str), where
        for key, value in theirs.items():
            assert_equal(ours[key], value, f"{where}/{key}")
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def assert_same_run(folder: Path, whole: Path) -> None:
    assert (folder / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    # Weights, moments of the optimisers, steps, best weights, best value.
    assert_equal(
        load_checkpoint(folder / "checkpoint.pt", settings="same"),
        load_checkpoint(whole / "checkpoint.pt", settings="same"),
    )


@pytest.mark.parametrize("moments", [[(0, 2)], [(1, 1)], [(2, 3), (2, 1), (4, 3)]])
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    whole: Whole, tmp_path: Path, moments: list[tuple[int, int]]
) -> None:
    same = whole.make, whole.settings, whole.parts
    for moment in moments:

        def interrupt(progress: Progress, moment: tuple[int, int] = moment) -> None:
            if (progress.epoch, progress.step) == moment:
                raise StoppedError

        with pytest.raises(StoppedError):
            train(*same, tmp_path, interrupt)
    assert_equal(train(*same, tmp_path), whole.weights)
    assert_same_run(tmp_path, whole.folder)


def train_slowly(make: Make, settings: Any, parts: Parts, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    train(make, settings, parts, folder, lambda progress: time.sleep(0.1))


def test_a_training_killed_with_sigkill_ends_as_an_undisturbed_one(
    whole: Whole, tmp_path: Path
) -> None:
    same, folder = (whole.make, whole.settings, whole.parts), tmp_path
    child = multiprocessing.get_context("spawn").Process(
        target=train_slowly, args=(*same, folder, torch.get_num_threads())
    )
    child.start()
    deadline = time.monotonic() + 60
    while not read_log(folder / "log.jsonl") and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.6))  # an epoch takes .3 s and more, four are left
    child.kill()
    child.join()
    assert child.exitcode == -9, "the training was over before it was killed"
    child.close()
    assert 1 <= len(read_log(folder / "log.jsonl")) < EPOCHS
    assert_equal(train(*same, folder), whole.weights)
    assert_same_run(folder, whole.folder)
