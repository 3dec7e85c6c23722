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
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from servax.errors import CorpusError, SettingError
from servax.features import Batch, Dataset, SpecAugment, roll_frames
from servax.models import VGG16
from servax.training import (
    Compute,
    RecogniserTrainer,
    RecogniserTraining,
    class_weights,
    derive,
    epoch_order,
    fit,
    generator,
    global_seed,
    predict,
)

Build = Callable[..., Dataset]
CPU = Compute("cpu")
PLAIN = {"augment": None, "shift": False, "class_weights": False}


def vgg(width: int = 2, seed: int = 0) -> VGG16:
    with global_seed(seed, "weights"):
        return VGG16(4, width)


def no_tick() -> None:
    pass


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 1, 2, 2, 3, 3, 3, 3], [3, 2, 1, 0, 0]])
def test_class_weights_are_scikit_learns(make_dataset: Build, labels: list[int]) -> None:
    expected = compute_class_weight("balanced", classes=np.arange(4), y=np.array(labels))
    np.testing.assert_allclose(class_weights(make_dataset(labels)), expected, rtol=1e-6)


def test_a_class_without_utterances_cannot_be_learned(make_dataset: Build) -> None:
    sentence = (
        r"^made: no training utterance is labelled happy or sad, expected some of every label; "
        r"choose other folds or another label scheme\.$"
    )
    with pytest.raises(CorpusError, match=sentence):
        class_weights(make_dataset([0, 2, 2]))
    for weigh in (True, False):
        with pytest.raises(CorpusError, match=sentence):
            RecogniserTrainer(
                vgg(),
                make_dataset([0, 2, 2]),
                make_dataset([0]),
                RecogniserTraining(class_weights=weigh),
                seed=0,
            )


def test_frames_are_rolled_as_torch_rolls_them() -> None:
    x = torch.rand(6, 1, 3, 7)
    shifts = torch.tensor([0, 1, 3, 6, 7, 15])
    rolled = roll_frames(x, shifts)
    for row, shift in enumerate(shifts.tolist()):
        assert torch.equal(rolled[row], torch.roll(x[row], shift, dims=-1))


def test_learns_what_is_plain_to_see(make_dataset: Build, tmp_path: Path) -> None:
    train, validation = make_dataset([0, 1, 2, 3] * 6), make_dataset([0, 1, 2, 3] * 2, seed=1)
    settings = RecogniserTraining(epochs=12, patience=12, batch_size=8, augment=None)
    network = vgg(width=4)
    trainer = RecogniserTrainer(network, train, validation, settings, seed=0, compute=CPU)
    fitted = fit(trainer, settings.schedule(), tmp_path, seed=0, settings="")
    assert fitted.best == 1.0
    logits, labels = predict(network, make_dataset([3, 2, 1, 0] * 2, seed=2), 3, compute=CPU)
    assert logits.argmax(1).tolist() == labels.tolist() == [3, 2, 1, 0] * 2


class Doubled(Dataset):
    """The same utterances in float64, where the order of additions does not matter to 1e-6."""

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        batch = super().batch(positions, device)
        return Batch(batch.x.double(), batch.y, batch.positions)


def doubled(dataset: Dataset) -> Dataset:
    dataset.__class__ = Doubled
    return dataset


def masked(x: Tensor, augment: SpecAugment, draws: torch.Generator) -> Tensor:
    mask = augment.draw(x.shape, draws)
    filled = x.clone()
    for row in range(len(x)):
        filled[row][mask[row]] = x[row].mean()
    return filled


def test_steps_are_those_of_a_plain_loop(make_dataset: Build) -> None:
    """AdamW with the cosine schedule on rolled, masked batches, written out by hand."""
    labels = [0, 1, 2, 3, 0, 0, 1, 0, 2, 0]
    augment = SpecAugment(time_width=10, mel_width=6)
    settings = RecogniserTraining(epochs=3, batch_size=4, learning_rate=0.01, augment=augment)
    train = doubled(make_dataset(labels))
    network = vgg().double()
    trainer = RecogniserTrainer(network, train, train, settings, seed=5, compute=CPU)
    trainer._loss.double()
    reported = [trainer.train_epoch(epoch, no_tick) for epoch in range(2)]

    plain = vgg().double().train()
    parameters = list(plain.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    weights = torch.tensor([10 / (4 * labels.count(c)) for c in range(4)], dtype=torch.float64)
    t = 0
    for epoch in range(2):
        draws = generator(5, "augment", epoch)
        batches = epoch_order(10, 4, seed=derive(5, "recogniser"), epoch=epoch)
        losses = []
        for step, positions in enumerate(batches):
            t += 1
            rate = 0.01 * 0.5 * (1 + math.cos(math.pi * (epoch + step / len(batches)) / 3))
            batch = train.batch(positions)
            shifts = torch.randint(0, 40, (len(positions),), generator=draws).tolist()
            rolled = torch.stack([x.roll(s, -1) for x, s in zip(batch.x, shifts, strict=True)])
            chances = plain(masked(rolled, augment, draws)).softmax(1)
            right = chances[torch.arange(len(positions)), batch.y]
            w = weights[batch.y]
            loss = -(w * right.log()).sum() / w.sum()
            for i, gradient in enumerate(torch.autograd.grad(loss, parameters)):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                m, v = first[i] / (1 - 0.9**t), second[i] / (1 - 0.999**t)
                with torch.no_grad():
                    parameters[i] *= 1 - rate * 1e-4
                    parameters[i] -= rate * m / (v.sqrt() + 1e-8)
            losses.append(float(loss.detach()))
        assert reported[epoch] == {
            "train/loss": pytest.approx(np.mean(losses), abs=1e-9),
            "train/learning_rate": pytest.approx(rate),
        }
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_ticks_once_per_step(make_dataset: Build) -> None:
    ticks: list[int] = []
    settings = RecogniserTraining(batch_size=4)
    dataset = make_dataset([0, 1, 2, 3] * 3 + [0])  # the thirteenth is left out
    trainer = RecogniserTrainer(vgg(), dataset, dataset, settings, seed=0, compute=CPU)
    trainer.train_epoch(0, lambda: ticks.append(1))
    assert len(ticks) == trainer.steps_per_epoch() == 3


def test_validation_terms_are_loss_and_balanced_accuracy(make_dataset: Build) -> None:
    train, validation = make_dataset([0, 1, 2, 3]), make_dataset([0, 0, 0, 1, 2, 2, 0], seed=3)
    trainer = RecogniserTrainer(vgg(), train, validation, RecogniserTraining(), seed=0, compute=CPU)
    trainer.network.head.bias.data[3] = -99.0  # scikit-learn warns of classes only predicted
    terms = trainer.validate(0)
    logits, labels = predict(trainer.network, validation, 2, compute=CPU)
    chances = logits.double().softmax(1)[torch.arange(7), labels]
    assert terms["validation/loss"] == pytest.approx(float(-chances.log().mean()), rel=1e-5)
    expected = balanced_accuracy_score(labels, logits.argmax(1))
    assert terms["validation/uar"] == pytest.approx(expected)


def test_predicts_in_evaluation_mode_and_in_order(make_dataset: Build) -> None:
    dataset = make_dataset([0, 1, 2, 3, 1, 0, 2])
    network = vgg()
    network.train()
    whole = dataset.batch(np.arange(7)).x
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits, labels = predict(network, dataset, 2, compute=CPU)
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name  # running statistics untouched
    assert labels.tolist() == [0, 1, 2, 3, 1, 0, 2]
    with torch.no_grad():
        torch.testing.assert_close(logits, network.eval()(whole), rtol=1e-5, atol=1e-5)
    predict(network, dataset, 2, compute=CPU)
    assert not network.training


def test_a_part_kept_in_evaluation_mode_stays_in_it(make_dataset: Build) -> None:
    network = nn.Sequential(vgg().eval(), nn.Identity())
    network[1].train()
    network.training = True
    predict(network, make_dataset([0, 1]), 2, compute=CPU)
    assert [m.training for m in (network, network[0], network[0].head, network[1])] == [
        True,
        False,
        False,
        True,
    ]


def test_predictions_in_bfloat16_are_float32_outside(make_dataset: Build) -> None:
    logits, _ = predict(vgg(), make_dataset([0, 1]), 2, compute=Compute("cpu", "bfloat16"))
    assert logits.dtype == torch.float32


def test_state_is_a_copy(make_dataset: Build) -> None:
    dataset = make_dataset([0, 1, 2, 3])
    trainer = RecogniserTrainer(vgg(), dataset, dataset, RecogniserTraining(), seed=0, compute=CPU)
    state, weights = trainer.state(), trainer.weights()
    kept = weights["head.weight"].clone()
    trainer.train_epoch(0, no_tick)
    assert not torch.equal(trainer.network.head.weight, kept)  # type: ignore[arg-type,union-attr]
    assert torch.equal(weights["head.weight"], kept)
    assert torch.equal(state["network"]["head.weight"], kept)
    assert state["optimiser"]["state"] == {}
    trainer.load_weights(weights)
    assert torch.equal(trainer.network.head.weight, kept)  # type: ignore[arg-type,union-attr]
    assert not trainer.network.training


def test_monitors_the_validation_uar() -> None:
    schedule = RecogniserTraining(epochs=7, patience=3).schedule()
    assert (schedule.epochs, schedule.patience) == (7, 3)
    assert (schedule.monitor, schedule.mode) == ("validation/uar", "max")


def test_settings_are_rebuilt_from_plain_dicts() -> None:
    settings = RecogniserTraining(augment={"time_masks": 1})  # type: ignore[arg-type]
    assert settings.augment == SpecAugment(time_masks=1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch_size": 1}, "batch_size is 1, expected a whole number of at least 2."),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number in (0, 1]."),
        ({"learning_rate": math.nan}, "learning_rate is nan, expected a number in (0, 1]."),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected a number in [0, 1)."),
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1."),
        ({"patience": 0}, "patience is 0, expected a whole number of at least 1."),
    ],
)
def test_settings_refuse(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        RecogniserTraining(**given)
