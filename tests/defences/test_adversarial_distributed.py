"""Adversarial training by two processes against one: the same weights, to 1e-6 in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from servax.defences import (
    AdversarialTrainer,
    AdversarialTraining,
    MadryPGD,
    Objective,
    Similarity,
    SingleStep,
    Trades,
    Vanilla,
)
from servax.features import Batch, Dataset, SpecAugment
from servax.models import VGG16
from servax.training import Compute, Processes, current, fit, global_seed, launch

SETTINGS = AdversarialTraining(
    iterations=4,
    plain_iterations=2,
    batch_size=4,
    class_weights=True,
    shift=True,
    augment=SpecAugment(time_width=10, mel_width=6),
)
OBJECTIVES: list[Objective] = [
    Vanilla(0.02),
    Similarity(0.02),
    MadryPGD(step=0.01, radius=0.02, steps=2),
    Trades(step=0.01, radius=0.02, steps=2),
]


class Doubled(Dataset):
    """The same utterances in float64."""

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        batch = super().batch(positions, device)
        return Batch(batch.x.double(), batch.y, batch.positions)


def train(
    dataset: Dataset, objective: Objective | None, folder: Path, start: AdversarialTrainer | None
) -> AdversarialTrainer:
    with global_seed(3, "weights"):
        network = VGG16(4, 2).double()
    settings = SETTINGS
    if isinstance(objective, SingleStep):
        # A masked band is constant: which of its equal cells max pooling takes is decided by the
        # last bit, which on some processors depends on the size of the batch. FGSM begins at such
        # an input; the other attacks begin beside it.
        settings = replace(SETTINGS, augment=None)
    trainer = AdversarialTrainer(
        network, dataset, dataset, objective, settings, seed=3, compute=Compute("cpu")
    )
    trainer._loss.double()
    # The second of two processes has no utterance of the second batch.
    trainer._order = lambda epoch: [np.arange(3), np.arange(3, 4)]  # type: ignore[method-assign]
    if start is not None:
        trainer.load_state(start.state())
    fit(trainer, trainer.schedule(), folder, seed=3, settings="")
    torch.save(network.state_dict(), folder / f"rank-{current().rank}.pt")
    return trainer


def scenes(dataset: Dataset, folder: Path) -> None:
    start = train(dataset, None, folder / "start", None)
    for objective in OBJECTIVES:
        train(dataset, objective, folder / objective.name, start)


@pytest.fixture(scope="module")
def trained(make_dataset: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of trainings by one process and by two."""
    dataset = make_dataset([0, 1, 2, 3, 0])
    dataset.__class__ = Doubled
    folder = tmp_path_factory.mktemp("trained")
    for number in ("one", "two"):
        for name in ("start", *(objective.name for objective in OBJECTIVES)):
            (folder / number / name).mkdir(parents=True)
    scenes(dataset, folder / "one")
    work = partial(scenes, dataset, folder / "two")
    launch(work, Processes(devices=2), device=torch.device("cpu"))
    return folder


@pytest.mark.parametrize("name", ["start", *(objective.name for objective in OBJECTIVES)])
def test_two_processes_end_with_the_weights_of_one(trained: Path, name: str) -> None:
    expected = torch.load(trained / f"one/{name}/rank-0.pt", weights_only=True)
    main, other = (
        torch.load(trained / f"two/{name}/rank-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for key, value in expected.items():
        torch.testing.assert_close(main[key], value, rtol=1e-6, atol=1e-8)
        assert torch.equal(main[key], other[key]), key
