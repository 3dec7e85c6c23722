from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import Batch, Dataset
from servax.models import (
    TAPS,
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    FrameTransformer,
    feature_extractor,
    frozen,
)
from servax.purifier import PRESETS, SSA, LossWeights, PurifierTrainer, PurifierTraining, preset
from servax.training import Compute, derive, epoch_order, fit, generator, global_seed

Build = Callable[..., Dataset]
SMALL = DiscriminatorSettings(channels=(2, 3), hidden=(4,))
LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


class Doubled(Dataset):
    """The same utterances in float64, where the order of additions does not matter to 1e-6."""

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        batch = super().batch(positions, device)
        return Batch(batch.x.double(), batch.y, batch.positions)


def doubled(dataset: Dataset) -> Dataset:
    dataset.__class__ = Doubled
    return dataset


def networks() -> tuple[FrameTransformer, Discriminator, nn.Module]:
    """Return P, D and F in float64."""
    with global_seed(0, "weights"):
        p = FrameTransformer(mels=32, blocks=1, heads=4, feedforward=16)
        d = Discriminator(SMALL)
        f = feature_extractor(frozen(VGG16(4, 2)), "conv2_2")
    return p.double(), d.double(), f.double()


def make_trainer(
    make_dataset: Build, *, seed: int = 0, **settings: Any
) -> tuple[PurifierTrainer, Dataset, Dataset]:
    train = doubled(make_dataset(LABELS))
    validation = doubled(make_dataset(LABELS[:5], seed=1))
    given = PurifierTraining(
        **({"batch_size": 4, "tap": "conv2_2", "ssa": SSA(steps=3)} | settings)
    )
    trainer = PurifierTrainer(
        *networks(), train, validation, given, seed=seed, compute=Compute("cpu")
    )
    return trainer, train, validation


def no_tick() -> None:
    pass


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def differs(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(v, before[name]) for name, v in network.state_dict().items())


def ssa_by_hand(f: nn.Module, x: Tensor, draws: torch.Generator, steps: int) -> Tensor:
    noise = 2 * torch.rand(x.shape, generator=draws, dtype=x.dtype) - 1
    moved = (x + 0.01 * noise).clamp(0, 1)
    for _ in range(steps):
        leaf = moved.detach().requires_grad_(True)
        distance = (f(leaf) - f(x)).square().mean(dim=(1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(distance, leaf)
        moved = moved + 0.01 * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - 0.06), x + 0.06).clamp(0, 1)
    return moved


class HandAdam:
    """Kingma & Ba 2015, algorithm 1."""

    def __init__(self, network: nn.Module) -> None:
        self.parameters = list(network.parameters())
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0

    def step(self, loss: Tensor, rate: float, clip: float | None = None) -> None:
        self.t += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
        shrink = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + 0.1 * shrink * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * (shrink * g) ** 2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            with torch.no_grad():
                self.parameters[i] -= rate * m / (v.sqrt() + 1e-8)


def length(tensor: Tensor) -> float:
    return math.sqrt(float((tensor * tensor).sum()))


@pytest.mark.parametrize(
    ("weights", "warmup", "clip", "limit"),
    [
        ((1.0, 1.0, 1.0), 0, 0.0, None),
        ((0.5, 2.0, 3.0), 4, 0.05, None),
        ((4.0, 1.0, 1.0), 0, 0.0, 0.1),
    ],
    ids=["paper", "warm-up and clipping", "limit"],
)
def test_steps_are_those_of_a_plain_loop(
    make_dataset: Build,
    weights: tuple[float, float, float],
    warmup: int,
    clip: float,
    limit: float | None,
) -> None:
    alpha, beta, gamma = weights
    trainer, train, _ = make_trainer(
        make_dataset,
        seed=3,
        weights=LossWeights(alpha, beta, gamma),
        warmup_steps=warmup,
        clip_norm=clip,
        adversarial_limit=limit,
    )
    reported = [trainer.train_epoch(epoch, no_tick) for epoch in range(2)]

    p, d, f = networks()
    adam_p, adam_d = HandAdam(p), HandAdam(d)
    steps, cuts = 0, 0
    for epoch in range(2):
        draws = generator(3, "ssa", epoch)
        seen: list[tuple[float, ...]] = []
        for positions in epoch_order(10, 4, seed=derive(3, "purifier"), epoch=epoch):
            steps += 1
            x = train.batch(positions).x
            distorted = ssa_by_hand(f, x, draws, 3)
            purified = p(distorted)
            chance_x, chance_p = d(x).sigmoid(), d(purified.detach()).sigmoid()
            loss_d = -chance_x.log().mean() - (1 - chance_p).log().mean()
            adam_d.step(loss_d, 1e-3)
            pixel = (x - purified).square().mean(dim=(1, 2, 3)).sqrt().mean()
            feature = (f(x) - f(purified)).abs().mean()
            adversarial = -d(purified).sigmoid().log().mean()
            rest = beta * pixel + gamma * feature
            loss = moved = alpha * adversarial + rest
            if limit is not None:
                (rest_slope,) = torch.autograd.grad(rest, purified, retain_graph=True)
                (slope,) = torch.autograd.grad(alpha * adversarial, purified, retain_graph=True)
                share = limit * length(rest_slope) / length(slope)
                cuts += share < 1
                moved = min(1.0, share) * alpha * adversarial + rest
            adam_p.step(moved, 1e-3 * min(1.0, steps / warmup if warmup else 1.0), clip)
            seen.append(
                tuple(float(v.detach()) for v in (loss_d, adversarial, loss, pixel, feature))
            )
        names = ("discriminator", "adversarial", "loss", "pixel", "feature")
        expected = dict(zip((f"train/{n}" for n in names), np.mean(seen, axis=0), strict=True))
        assert reported[epoch] == pytest.approx(expected, abs=1e-8)
    assert limit is None or cuts > 0
    for ours, plain in ((trainer.network, p), (trainer.discriminator, d)):
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_the_discriminators_step_leaves_the_purifier_alone(make_dataset: Build) -> None:
    trainer, train, _ = make_trainer(make_dataset)
    p, d = snapshot(trainer.network), snapshot(trainer.discriminator)
    x = train.batch(np.arange(4)).x
    trainer._move_discriminator(x, trainer.network(x).detach())
    assert not differs(trainer.network, p)
    assert all(parameter.grad is None for parameter in trainer.network.parameters())
    assert differs(trainer.discriminator, d)


def test_the_purifiers_gradient_passes_through_a_discriminator_that_gets_none(
    make_dataset: Build,
) -> None:
    only_adversarial = LossWeights(adversarial=1.0, pixel=0.0, feature=1e-300)
    trainer, train, _ = make_trainer(
        make_dataset,
        weights=only_adversarial,
        warmup_steps=0,
        clip_norm=0.0,
        adversarial_limit=None,
    )
    x = train.batch(np.arange(4)).x
    trainer._step(x, generator(1, "ssa"))

    p, d, f = networks()
    purified = p(ssa_by_hand(f, x, generator(1, "ssa"), 3))
    loss = nn.functional.softplus(-d(x)).mean()
    loss = loss + nn.functional.softplus(d(purified.detach())).mean()
    own = torch.autograd.grad(loss, list(d.parameters()), retain_graph=True)
    HandAdam(d).step(loss, 1e-3)  # P's step sees D after its own
    adversarial = nn.functional.softplus(-d(purified)).mean()
    passed = torch.autograd.grad(adversarial, list(p.parameters()))
    assert any(float(gradient.abs().max()) > 1e-6 for gradient in passed)
    for network, gradients in ((trainer.network, passed), (trainer.discriminator, own)):
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-12)


def test_without_alpha_there_is_no_discriminator(make_dataset: Build) -> None:
    trainer, _, _ = make_trainer(make_dataset, weights=LossWeights(adversarial=0.0))
    d, p = snapshot(trainer.discriminator), snapshot(trainer.network)
    terms = trainer.train_epoch(0, no_tick)
    assert sorted(terms) == ["train/feature", "train/loss", "train/pixel"]
    assert terms["train/loss"] == pytest.approx(terms["train/pixel"] + terms["train/feature"])
    assert not differs(trainer.discriminator, d)
    assert differs(trainer.network, p)


def test_the_extractor_is_never_trained(make_dataset: Build) -> None:
    trainer, _, _ = make_trainer(make_dataset)
    before = snapshot(trainer.extractor)
    trainer.train_epoch(0, no_tick)
    trainer.validate(0)
    assert not differs(trainer.extractor, before)
    assert not trainer.extractor.training
    assert all(parameter.grad is None for parameter in trainer.extractor.parameters())


def test_no_distortion_is_used_twice(make_dataset: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    call = SSA.__call__

    def spy(self: SSA, f: nn.Module, x: Tensor, features: Tensor, draws: torch.Generator) -> Tensor:
        made.append(call(self, f, x, features, draws))
        return made[-1]

    monkeypatch.setattr(SSA, "__call__", spy)
    trainer, _, validation = make_trainer(make_dataset)
    trainer.train_epoch(0, no_tick)
    trainer.train_epoch(1, no_tick)
    assert len(made) == 6
    first = trainer.validate(0)
    assert len(made) == 8  # 5 utterances in batches of 4, made once ...
    assert trainer.validate(1) == first  # ... so that every epoch is measured on the same ones
    assert len(made) == 8
    for batch, distorted in zip(validation.batches(4), made[6:], strict=True):
        assert float((distorted - batch.x).abs().max()) <= 0.06 + 1e-12
    other, _, _ = make_trainer(make_dataset)
    other.validate(0)
    assert torch.equal(made[6], made[8])  # a resumed run makes the same ones


def test_validation_terms_are_means_over_utterances(make_dataset: Build) -> None:
    trainer, _, validation = make_trainer(make_dataset, weights=LossWeights(9.0, 2.0, 3.0))
    terms = trainer.validate(0)
    assert not trainer.network.training
    p, _, f = networks()
    draws = generator(0, "ssa", "validation")
    pixel, feature = [], []
    for batch in validation.batches(4):
        purified = p.eval()(ssa_by_hand(f, batch.x, draws, 3))
        for x, y in zip(batch.x, purified, strict=True):
            pixel.append(float((x - y).square().mean().sqrt().detach()))
            feature.append(float((f(x[None]) - f(y[None])).abs().mean().detach()))
    assert terms["validation/pixel"] == pytest.approx(np.mean(pixel), abs=1e-9)
    assert terms["validation/feature"] == pytest.approx(np.mean(feature), abs=1e-9)
    # L_adv is left out: D moves from epoch to epoch.
    total = 2 * np.mean(pixel) + 3 * np.mean(feature)
    assert terms["validation/loss"] == pytest.approx(total, abs=1e-9)


def test_warm_up_rises_linearly(make_dataset: Build) -> None:
    trainer, train, _ = make_trainer(make_dataset, warmup_steps=4, learning_rate=0.01)
    rates = []
    for _ in range(6):
        trainer._step(train.batch(np.arange(2)).x, generator(0))
        rates.append(trainer._optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert trainer._discriminator_optimiser.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("clip", [0.001, 0.0])
def test_clipping_bounds_the_gradient(make_dataset: Build, clip: float) -> None:
    trainer, train, _ = make_trainer(make_dataset, clip_norm=clip)
    trainer._step(train.batch(np.arange(4)).x, generator(0))
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())
    assert norm == pytest.approx(0.001, rel=1e-3) if clip else norm > 0.01


def test_learns_to_undo_distortions(make_dataset: Build, tmp_path: Path) -> None:
    trainer, _, _ = make_trainer(
        make_dataset, epochs=12, learning_rate=0.01, warmup_steps=0, patience=12
    )
    before = trainer.validate(0)["validation/loss"]
    fitted = fit(trainer, trainer.settings.schedule(), tmp_path, seed=0, settings="")
    assert fitted.best < 0.5 * before
    assert trainer.validate(0)["validation/loss"] == pytest.approx(fitted.best, rel=1e-12)


def test_ticks_once_per_step(make_dataset: Build) -> None:
    trainer, _, _ = make_trainer(make_dataset, batch_size=3)  # the tenth is left out
    ticks: list[int] = []
    trainer.train_epoch(0, lambda: ticks.append(1))
    assert len(ticks) == trainer.steps_per_epoch() == 3


def test_bfloat16_trains(make_dataset: Build) -> None:
    p, d, f = (network.float() for network in networks())
    dataset = make_dataset(LABELS[:4])
    settings = PurifierTraining(batch_size=4, ssa=SSA(steps=1))
    compute = Compute("cpu", "bfloat16")
    trainer = PurifierTrainer(p, d, f, dataset, dataset, settings, seed=0, compute=compute)  # type: ignore[arg-type]
    terms = trainer.train_epoch(0, no_tick) | trainer.validate(0)
    assert all(math.isfinite(value) for value in terms.values())
    assert all(parameter.dtype == torch.float32 for parameter in p.parameters())


def test_the_papers_configuration_is_the_preset() -> None:
    training = preset("ssad").training
    assert (training.ssa.step, training.ssa.epsilon, training.ssa.steps) == (0.01, 0.06, 10)
    assert (training.weights, training.tap) == (LossWeights(1.0, 1.0, 1.0), "conv3_3")
    assert (training.learning_rate, training.patience) == (1e-3, 5)
    network = preset("ssad").network
    assert (network.mels, network.blocks, network.heads, network.residual) == (64, 6, 8, False)
    assert preset("ssad-residual").network.residual
    assert preset("ssad-residual").training == training
    assert training.schedule().monitor == "validation/loss"
    assert list(PRESETS) == ["ssad", "ssad-residual", "ssad-plus"]


def test_an_unknown_preset_names_the_nearest() -> None:
    sentence = (
        "purifier preset is 'ssad-residuals', expected one of ssad, ssad-plus, ssad-residual. "
        "Did you mean 'ssad-residual'?"
    )
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        preset("ssad-residuals")


def test_settings_are_rebuilt_from_plain_dicts() -> None:
    settings = PurifierTraining(ssa={"steps": 2}, weights={"pixel": 0.5})  # type: ignore[arg-type]
    assert settings.ssa == SSA(steps=2)
    assert settings.weights == LossWeights(pixel=0.5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch_size": 1}, "batch_size is 1, expected a whole number of at least 2."),
        ({"learning_rate": 2.0}, "learning_rate is 2.0, expected a number in (0, 1]."),
        ({"warmup_steps": -1}, "warmup_steps is -1, expected a whole number of at least 0."),
        ({"clip_norm": math.nan}, "clip_norm is nan, expected a number of at least 0."),
        (
            {"adversarial_limit": 1.0},
            "adversarial_limit is 1.0, expected a share in (0, 1), or none.",
        ),
        (
            {"adversarial_limit": 0.0},
            "adversarial_limit is 0.0, expected a share in (0, 1), or none.",
        ),
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1."),
        ({"patience": -2}, "patience is -2, expected a whole number of at least 1."),
    ],
)
def test_settings_refuse(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        PurifierTraining(**given)


def test_an_unknown_tap_is_refused_before_anything_is_trained() -> None:
    sentence = (
        f"tap is 'conv3-3', expected one of {', '.join(sorted(TAPS))}. Did you mean 'conv3_3'?"
    )
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        PurifierTraining(tap="conv3-3")
