"""The purifier and its discriminator trained by two processes against one: the same weights.

Compared in float64, where only the order of additions differs, to 1e-6 of each weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from servax.features import Batch, Dataset
from servax.models import (
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    FrameTransformer,
    feature_extractor,
    frozen,
)
from servax.purifier import SSA, LossWeights, PurifierTrainer, PurifierTraining
from servax.training import Compute, Processes, current, fit, global_seed, launch, read_log

LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
SETTINGS = {
    # 4, 4 and 3 utterances; the gradient of L_adv is cut, that of P clipped.
    "limited": PurifierTraining(
        batch_size=4,
        tap="conv2_2",
        ssa=SSA(steps=3),
        epochs=2,
        warmup_steps=2,
        clip_norm=0.05,
        weights=LossWeights(4.0, 1.0, 1.0),
        adversarial_limit=0.1,
    ),
    "paper": PurifierTraining(
        batch_size=5,
        tap="conv2_2",
        ssa=SSA(steps=2, start="ball"),
        epochs=2,
        adversarial_limit=None,
    ),
    "alone": PurifierTraining(
        batch_size=4,
        tap="conv2_2",
        ssa=SSA(steps=2),
        epochs=2,
        weights=LossWeights(adversarial=0.0),
    ),
}


class Doubled(Dataset):
    """The same utterances in float64."""

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        batch = super().batch(positions, device)
        return Batch(batch.x.double(), batch.y, batch.positions)


def train(name: str, dataset: Dataset, folder: Path, *, lonely: bool = False) -> None:
    with global_seed(0, "weights"):
        p = FrameTransformer(mels=32, blocks=1, heads=4, feedforward=16).double()
        d = Discriminator(DiscriminatorSettings(channels=(2, 3), hidden=(4,))).double()
        f = feature_extractor(frozen(VGG16(4, 2)), "conv2_2").double()
    settings = SETTINGS[name]
    trainer = PurifierTrainer(p, d, f, dataset, dataset, settings, seed=3, compute=Compute("cpu"))
    if lonely:  # the second of two processes has no utterance of the last batch
        trainer._order = lambda epoch: [np.arange(4), np.arange(4, 5)]  # type: ignore[method-assign]
    fit(trainer, settings.schedule(), folder, seed=3, settings="")
    ends = {"p": p.state_dict(), "d": d.state_dict()}
    torch.save(ends, folder / f"rank-{current().rank}.pt")


SCENES: list[tuple[str, dict[str, Any]]] = [
    ("limited", {}),
    ("limited", {"lonely": True}),
    ("paper", {}),
    ("alone", {}),
]


def scenes(dataset: Dataset, folder: Path) -> None:
    for number, (name, options) in enumerate(SCENES):
        train(name, dataset, folder / str(number), **options)


@pytest.fixture(scope="module")
def trained(make_dataset: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of trainings by one process and by two."""
    dataset = make_dataset(LABELS)
    dataset.__class__ = Doubled
    folder = tmp_path_factory.mktemp("trained")
    for number in range(len(SCENES)):
        (folder / f"one/{number}").mkdir(parents=True)
        (folder / f"two/{number}").mkdir(parents=True)
    scenes(dataset, folder / "one")
    work = partial(scenes, dataset, folder / "two")
    launch(work, Processes(devices=2), device=torch.device("cpu"))
    return folder


@pytest.mark.parametrize("scene", range(len(SCENES)))
def test_two_processes_end_with_the_weights_of_one(trained: Path, scene: int) -> None:
    expected = torch.load(trained / f"one/{scene}/rank-0.pt", weights_only=True)
    main, other = (
        torch.load(trained / f"two/{scene}/rank-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for network in ("p", "d"):
        for name, value in expected[network].items():
            torch.testing.assert_close(main[network][name], value, rtol=1e-6, atol=1e-8)
            assert torch.equal(main[network][name], other[network][name]), name


@pytest.mark.parametrize("scene", range(len(SCENES)))
def test_the_log_tells_the_same(trained: Path, scene: int) -> None:
    expected, found = (read_log(trained / f"{n}/{scene}/log.jsonl") for n in ("one", "two"))
    assert len(found) == len(expected) == 2
    for line, wanted in zip(found, expected, strict=True):
        assert list(line) == list(wanted)
        assert line == pytest.approx(wanted, rel=1e-6)
