from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from servax.defences import Defended, DenoiserTrainer, DenoiserTraining, train_denoiser
from servax.errors import CheckpointError, SettingError
from servax.features import Dataset, FrontEndSettings, LogMelSettings
from servax.models import VGG16, FrameTransformer, FrameTransformerSettings
from servax.purifier import Purifier
from servax.training import Compute, derive, epoch_order, generator, global_seed, read_log

Build = Callable[..., Dataset]
LABELS = [0, 1, 2, 3, 0, 1]
CPU = Compute("cpu")
TINY = FrameTransformerSettings(mels=32, blocks=1, heads=2, feedforward=16)
FRONT_END = FrontEndSettings(LogMelSettings(mels=32))
TRAINING = DenoiserTraining(
    standard_deviation=0.1, epochs=4, batch_size=4, warmup_steps=9, learning_rate=3e-3
)


def parts(make_dataset: Build) -> tuple[Dataset, Dataset]:
    return make_dataset(LABELS), make_dataset(LABELS[:3], seed=1)


def train(make_dataset: Build, folder: Path, training: DenoiserTraining = TRAINING) -> None:
    folder.mkdir(exist_ok=True)
    given = {"network": TINY, "front_end": FRONT_END, "seed": 3, "compute": CPU}
    train_denoiser(*parts(make_dataset), training, folder, **given)


def test_steps_are_those_of_a_plain_loop(make_dataset: Build) -> None:
    dataset, validation = parts(make_dataset)
    with global_seed(3, "weights"):
        network = FrameTransformer(32, 1, 2, 16)
    twin = FrameTransformer(32, 1, 2, 16)
    twin.load_state_dict(network.state_dict())
    settings = replace(TRAINING, warmup_steps=4, clip_norm=0.05)
    trainer = DenoiserTrainer(network, dataset, validation, settings, seed=5, compute=CPU)
    found = trainer.train_epoch(0, lambda: None)["train/loss"]
    optimiser = torch.optim.Adam(twin.parameters())
    draws, losses = generator(5, "noise", 0), []
    for step, rows in enumerate(epoch_order(6, 4, seed=derive(5, "denoiser"), epoch=0)):
        x = dataset.batch(rows).x
        noise = torch.randn(x.shape, generator=draws)
        loss = (twin(x + 0.1 * noise) - x).pow(2).sum() / x.numel()
        optimiser.param_groups[0]["lr"] = 3e-3 * (step + 1) / 4
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert found == pytest.approx(sum(losses) / 2)
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_loss_falls_and_the_folder_holds_a_purifier(
    make_dataset: Build, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    training = replace(TRAINING, standard_deviation=0.2, epochs=30, patience=30, warmup_steps=0)
    train(make_dataset, tmp_path, training)
    assert torch.equal(torch.random.get_rng_state(), state)
    losses = [terms["validation/loss"] for terms in read_log(tmp_path / "log.jsonl")]
    assert min(losses) < 0.2 * losses[0]
    purifier = Purifier.from_pretrained(tmp_path / "model")
    x = make_dataset(LABELS, seed=2).batch(torch.arange(6).numpy()).x
    noisy = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (purifier(noisy) - x).pow(2).mean() < 0.5 * (noisy - x).pow(2).mean()
        assert Defended(VGG16(4, 2).eval(), purifier)(x).shape == (6, 4)


def test_a_training_that_was_cut_ends_with_the_same_weights(
    make_dataset: Build, tmp_path: Path
) -> None:
    train(make_dataset, tmp_path / "whole")

    def cut(progress: object) -> None:
        if progress.epoch == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(
            *parts(make_dataset),
            TRAINING,
            tmp_path / "cut",
            network=TINY,
            front_end=FRONT_END,
            seed=3,
            compute=CPU,
            progress=cut,
        )
    assert not (tmp_path / "cut" / "model").exists()
    train(make_dataset, tmp_path / "cut")
    whole, resumed = (
        Purifier.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "cut")
    )
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_the_checkpoint_of_another_training_is_refused(make_dataset: Build, tmp_path: Path) -> None:
    train(make_dataset, tmp_path, replace(TRAINING, epochs=1))
    with pytest.raises(CheckpointError, match="belongs to a run with other settings"):
        train(make_dataset, tmp_path, replace(TRAINING, standard_deviation=0.2))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("standard_deviation", 0.0, "a number in (0, 1]"),
        ("batch_size", 1, "a whole number of at least 2"),
        ("learning_rate", 2.0, "a number in (0, 1]"),
        ("warmup_steps", -1, "a whole number of at least 0"),
        ("clip_norm", -1.0, "a number of at least 0"),
        ("epochs", 0, "a whole number of at least 1"),
    ],
)
def test_settings_refuse(name: str, value: float, expected: str) -> None:
    sentence = f"{name} is {value!r}, expected {expected}."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        DenoiserTraining(**{name: value})  # type: ignore[arg-type]
