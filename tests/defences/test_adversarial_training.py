from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from servax.attacks import FGSM
from servax.defences import (
    SCHEDULES,
    AdversarialTrainer,
    AdversarialTraining,
    MadryPGD,
    NoiseTraining,
    Objective,
    Similarity,
    Trades,
    Vanilla,
)
from servax.errors import CheckpointError, CorpusError, ServaxError, SettingError
from servax.experiments.training import Parts, Session, start_adversarial, train_adversarial
from servax.features import Dataset, FrontEndSettings, Scale, SpecAugment, roll_frames
from servax.models import VGG16
from servax.recognition import Recogniser
from servax.training import (
    Compute,
    Fitted,
    Progress,
    RecogniserTraining,
    derive,
    epoch_order,
    fit,
    generator,
    global_seed,
    load_checkpoint,
    predict,
    read_log,
)

Build = Callable[..., Dataset]
Pair = tuple[Dataset, Dataset]
CPU = Compute("cpu")
MASKS = SpecAugment(time_width=10, mel_width=6)
# Three batches of 4 (the thirteenth utterance is left out): neither part ends with an epoch.
TRAINING = AdversarialTraining(
    iterations=11,
    plain_iterations=5,
    batch_size=4,
    decay="cosine",
    shift=True,
    augment=MASKS,
)
OBJECTIVES: list[Objective] = [
    Vanilla(0.02),
    Similarity(0.02),
    MadryPGD(step=0.01, radius=0.02, steps=2),
    Trades(step=0.01, radius=0.02, steps=2),
    NoiseTraining(0.1, draws=2),
]
each = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)


class StoppedError(Exception):
    pass


@pytest.fixture
def pair(make_dataset: Build) -> Pair:
    return make_dataset([0, 1, 2, 3] * 3 + [0]), make_dataset([0, 1, 2, 3] * 2, seed=1)


def vgg(width: int = 2) -> VGG16:
    with global_seed(3, "weights"):
        return VGG16(4, width)


def trainer_of(
    pair: Pair,
    objective: Objective | None,
    settings: AdversarialTraining = TRAINING,
    width: int = 2,
) -> AdversarialTrainer:
    return AdversarialTrainer(vgg(width), *pair, objective, settings, seed=3, compute=CPU)


def run(
    trainer: AdversarialTrainer,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
) -> Fitted:
    return fit(trainer, trainer.schedule(), folder, seed=3, settings="same", progress=progress)


def both_parts(
    pair: Pair, objective: Objective, folder: Path, settings: AdversarialTraining = TRAINING
) -> AdversarialTrainer:
    """Train the plain part, then the objective from its state."""
    start = trainer_of(pair, None, settings)
    run(start, folder / "start")
    trainer = trainer_of(pair, objective, settings)
    trainer.load_state(start.state())
    run(trainer, folder / objective.name)
    return trainer


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


def one_loop(pair: Pair, objective: Objective, s: AdversarialTraining) -> tuple[VGG16, list[float]]:
    """Train without interruption, counting iterations; return the network and each loss."""
    network = vgg().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    adam = torch.optim.Adam(network.parameters(), lr=s.learning_rate)
    criterion = nn.CrossEntropyLoss()
    losses = []
    for i in range(s.iterations):
        batches = epoch_order(13, 4, seed=derive(3, "adversarial"), epoch=i // 3)
        batch = pair[0].batch(batches[i % 3])
        draws = generator(3, "augment", i)
        x = roll_frames(batch.x, torch.randint(0, 40, (4,), generator=draws))
        x = MASKS.apply(x, MASKS.draw(x.shape, draws))
        adam.param_groups[0]["lr"] = (
            s.learning_rate * 0.5 * (1 + math.cos(math.pi * i / s.iterations))
        )
        if i < s.plain_iterations:
            loss = criterion(network(x), batch.y)
        else:
            loss = objective.loss(network, x, batch.y, criterion, generator(3, "attack", i))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return network, losses


@each
def test_plain_part_and_objective_are_one_training(
    objective: Objective, pair: Pair, tmp_path: Path
) -> None:
    trainer = both_parts(pair, objective, tmp_path)
    expected, losses = one_loop(pair, objective, TRAINING)
    assert_equal(trainer.weights(), expected.state_dict())
    plain = read_log(tmp_path / "start" / "log.jsonl")
    assert [line["train/iteration"] for line in plain] == [3, 5]
    assert [line["train/loss"] for line in plain] == [sum(losses[:3]) / 3, sum(losses[3:5]) / 2]
    log = read_log(tmp_path / objective.name / "log.jsonl")
    assert [line["train/iteration"] for line in log] == [8, 11]
    assert [line["train/loss"] for line in log] == [sum(losses[5:8]) / 3, sum(losses[8:]) / 3]
    assert log[-1]["train/learning_rate"] == pytest.approx(
        1e-3 * 0.5 * (1 + math.cos(math.pi * 10 / 11))
    )


@each
@pytest.mark.parametrize("moments", [[(0, 2), (1, 1)], [(0, 1), (1, 3)]])
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    objective: Objective, moments: list[tuple[int, int]], pair: Pair, tmp_path: Path
) -> None:
    expected = both_parts(pair, objective, tmp_path / "whole").weights()
    state = load_checkpoint(tmp_path / "whole" / "start" / "checkpoint.pt", settings="same")
    assert state is not None

    def resumed(progress: Callable[[Progress], None] | None = None) -> dict[str, Any]:
        trainer = trainer_of(pair, objective)
        trainer.load_state(state["training"])
        run(trainer, tmp_path / "cut", progress)
        return trainer.weights()

    for moment in moments:

        def interrupt(progress: Progress, moment: tuple[int, int] = moment) -> None:
            if (progress.epoch, progress.step) == moment:
                raise StoppedError

        with pytest.raises(StoppedError):
            resumed(interrupt)
    assert_equal(resumed(), expected)
    whole = tmp_path / "whole" / objective.name
    assert (tmp_path / "cut" / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert_equal(
        load_checkpoint(tmp_path / "cut" / "checkpoint.pt", settings="same"),
        load_checkpoint(whole / "checkpoint.pt", settings="same"),
    )


def test_the_last_weights_are_kept_however_they_validate(pair: Pair, tmp_path: Path) -> None:
    class Spoiling(Vanilla):
        """Leaves a network that errs: its loss asks for the next class."""

        def loss(self, network: Any, x: Any, y: Any, criterion: Any, generator: Any) -> Any:
            return super().loss(network, x, (y + 1) % 4, criterion, generator)

    settings = AdversarialTraining(
        iterations=60, plain_iterations=30, batch_size=4, learning_rate=0.003
    )
    trainer = both_parts(pair, Spoiling(0.02), tmp_path, settings)
    log = read_log(tmp_path / "adversarial-vanilla-0.02" / "log.jsonl")
    start = read_log(tmp_path / "start" / "log.jsonl")
    assert start[-1]["validation/uar"] > 0.7
    assert log[-1]["validation/uar"] < 0.5
    assert trainer.validate(0)["validation/uar"] == log[-1]["validation/uar"]
    assert len(log) == trainer.epochs == 10
    assert not trainer.network.training


def test_the_bar_ticks_once_for_each_iteration(pair: Pair) -> None:
    ticks: list[int] = []
    trainer = trainer_of(pair, None)
    assert (trainer.epochs, trainer.steps_per_epoch()) == (2, 3)
    for epoch in range(2):
        trainer.train_epoch(epoch, lambda: ticks.append(1))
    assert len(ticks) == TRAINING.plain_iterations


def test_weight_decay_and_class_weights_reach_the_step(make_dataset: Build, pair: Pair) -> None:
    settings = AdversarialTraining(
        iterations=2, plain_iterations=1, batch_size=4, weight_decay=0.1, class_weights=True
    )
    train = make_dataset([0] * 7 + [1, 2, 3])
    trainer = trainer_of((train, pair[1]), None, settings)
    trainer.train_epoch(0, lambda: None)
    network = vgg().train()
    weights = torch.tensor([10 / (4 * 7), 2.5, 2.5, 2.5])
    decayed = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    batch = train.batch(epoch_order(10, 4, seed=derive(3, "adversarial"), epoch=0)[0])
    nn.CrossEntropyLoss(weights)(network(batch.x), batch.y).backward()
    decayed.step()
    # The first step of Adam is the sign of the gradient, which rounding may turn near zero.
    torch.testing.assert_close(trainer.network.head.weight, network.head.weight)
    torch.testing.assert_close(trainer.network.head.bias, network.head.bias)


def test_more_accuracy_is_left_under_an_attack(make_dataset: Build, tmp_path: Path) -> None:
    """At the size trained for; the same iterations on clean input leave a third less."""
    pair = make_dataset([0, 1, 2, 3] * 8), make_dataset([0, 1, 2, 3] * 8, seed=1)
    batch = pair[1].batch(np.arange(32))
    settings = AdversarialTraining(iterations=50, plain_iterations=20, batch_size=8)

    def accuracies(trainer: AdversarialTrainer) -> list[float]:
        network = trainer.network.eval()
        inputs = (batch.x, FGSM(epsilon=0.1)(network, batch.x, batch.y))
        with torch.no_grad():
            return [float((network(x).argmax(1) == batch.y).float().mean()) for x in inputs]

    plain = trainer_of(pair, None, replace(settings, iterations=51, plain_iterations=50), width=4)
    run(plain, tmp_path / "plain")
    clean, attacked = accuracies(plain)
    assert clean > 0.9
    assert attacked < 0.8
    start = trainer_of(pair, None, settings, width=4)
    run(start, tmp_path / "start")
    walk = {"step": 0.03, "radius": 0.1, "steps": 3}
    for objective in (Vanilla(0.1), Similarity(0.1), MadryPGD(**walk), Trades(**walk)):
        trained = trainer_of(pair, objective, settings, width=4)
        trained.load_state(start.state())
        run(trained, tmp_path / objective.name)
        assert min(accuracies(trained)) > 0.9, objective.name


def test_what_is_trained_for_noise_is_validated_through_it(pair: Pair) -> None:
    trainer = trainer_of(pair, NoiseTraining(0.3, draws=3))
    found = trainer.validate(2)["validation/loss"]
    network, batch = trainer.network.eval(), pair[1].batch(np.arange(8))
    draws, chances = generator(3, "validation", 2), torch.zeros(8, 4)
    with torch.no_grad():
        for _ in range(3):
            noise = torch.randn(batch.x.shape, generator=draws)
            chances += network(batch.x + 0.3 * noise).softmax(1) / 3
    right = chances[torch.arange(8), batch.y]
    assert found == pytest.approx(float(-right.log().mean()), rel=1e-5)


def test_one_state_serves_several_objectives(pair: Pair) -> None:
    start = trainer_of(pair, None)
    for epoch in range(start.epochs):
        start.train_epoch(epoch, lambda: None)
    state, ended = start.state(), []
    for _ in range(2):
        trainer = trainer_of(pair, Vanilla(0.02))
        trainer.load_state(state)
        trainer.train_epoch(0, lambda: None)
        ended.append(trainer.weights())
    assert_equal(ended[0], ended[1])


def test_an_objective_needs_the_plain_part_first(pair: Pair, tmp_path: Path) -> None:
    trainer = trainer_of(pair, Vanilla(0.02))
    sentence = (
        "the network has 0 iterations behind it, expected 5: give the trainer the state of the "
        "plain part (load_state) before an objective is trained."
    )
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        run(trainer, tmp_path)


def test_every_class_must_be_there(make_dataset: Build, pair: Pair) -> None:
    with pytest.raises(CorpusError, match="no training utterance is labelled happy or sad"):
        trainer_of((make_dataset([0, 2, 2]), pair[1]), None)


def test_the_named_schedules() -> None:
    faithful = SCHEDULES["ren2020"]
    assert faithful == AdversarialTraining()
    assert (faithful.iterations, faithful.plain_iterations, faithful.batch_size) == (
        10000,
        1000,
        16,
    )
    assert (faithful.learning_rate, faithful.decay, faithful.weight_decay) == (1e-3, "none", 0.0)
    assert (faithful.class_weights, faithful.shift, faithful.augment) == (False, False, None)
    short, usual = SCHEDULES["short"], RecogniserTraining()
    assert (short.iterations, short.plain_iterations, short.decay) == (392, 280, "cosine")
    for name in (
        "batch_size",
        "learning_rate",
        "weight_decay",
        "class_weights",
        "shift",
        "augment",
    ):
        assert getattr(short, name) == getattr(usual, name), name
    assert short.shift == usual.shift


def test_settings_are_rebuilt_from_plain_dicts() -> None:
    assert AdversarialTraining(**json.loads(json.dumps(asdict(TRAINING)))) == TRAINING


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"iterations": 0}, "iterations is 0, expected a whole number of at least 1."),
        (
            {"plain_iterations": 10_000},
            "plain_iterations is 10000, expected a whole number of at least 0 and below iterations "
            "(10000).",
        ),
        (
            {"plain_iterations": -1},
            "plain_iterations is -1, expected a whole number of at least 0 and below iterations "
            "(10000).",
        ),
        ({"batch_size": 1}, "batch_size is 1, expected a whole number of at least 2."),
        ({"learning_rate": math.nan}, "learning_rate is nan, expected a number in (0, 1]."),
        ({"weight_decay": 1.0}, "weight_decay is 1.0, expected a number in [0, 1)."),
        (
            {"decay": "cosin"},
            "decay is 'cosin', expected one of cosine, none. Did you mean 'cosine'?",
        ),
    ],
)
def test_settings_refuse(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        AdversarialTraining(**given)


@pytest.fixture
def parts(pair: Pair) -> Parts:
    scale = pair[0].scale
    assert isinstance(scale, Scale)
    return Parts(*pair, pair[1], scale, FrontEndSettings())


def session(folder: Path, seed: int = 3) -> Session:
    return Session(folder, seed, "s", CPU)


def test_the_stages_leave_a_recogniser(parts: Parts, tmp_path: Path) -> None:
    fitted = start_adversarial(session(tmp_path / "start"), parts, TRAINING, width=2)
    assert (fitted.best, fitted.epochs) == (5.0, 2)
    start = tmp_path / "start" / "start.pt"
    folder = tmp_path / "model-of-vanilla"
    fitted = train_adversarial(
        session(folder), parts, TRAINING, Vanilla(0.02), width=2, start=start
    )
    assert (fitted.best, fitted.epochs) == (11.0, 2)
    found = Recogniser.from_pretrained(folder / "model")
    expected, _ = one_loop((parts.train, parts.validation), Vanilla(0.02), TRAINING)
    assert_equal(found.network.state_dict(), expected.state_dict())
    assert found.labels == parts.train.corpus.labels
    assert found.scale.settings == parts.scale.settings
    assert not found.network.training
    logits, _ = predict(found.network, parts.validation, 8, compute=CPU)
    assert logits.shape == (8, 4)


def test_without_plain_iterations_training_starts_from_fresh_weights(
    parts: Parts, tmp_path: Path
) -> None:
    training = replace(TRAINING, plain_iterations=0)
    fitted = start_adversarial(session(tmp_path / "start"), parts, training, width=2)
    assert fitted.epochs == 0
    start = tmp_path / "start" / "start.pt"
    folder = tmp_path / "trades"
    train_adversarial(session(folder), parts, training, Trades(steps=1), width=2, start=start)
    expected, _ = one_loop((parts.train, parts.validation), Trades(steps=1), training)
    found = Recogniser.from_pretrained(folder / "model").network
    assert_equal(found.state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    "change",
    [{"width": 3}, {"seed": 4}, {"training": replace(TRAINING, plain_iterations=4)}],
    ids=["width", "seed", "schedule"],
)
def test_the_start_of_another_training_is_refused(
    change: dict[str, Any], parts: Parts, tmp_path: Path
) -> None:
    start_adversarial(session(tmp_path), parts, TRAINING, width=2)
    given = {"width": 2, "training": TRAINING, "seed": 3, **change}
    other = session(tmp_path / "x", given.pop("seed"))
    start = tmp_path / "start.pt"
    sentence = re.escape(f"{start}: belongs to a run with other settings; ")
    with pytest.raises(CheckpointError, match=f"^{sentence}"):
        train_adversarial(other, parts, objective=Vanilla(0.02), start=start, **given)
    assert not (tmp_path / "x").exists()


def test_a_missing_start_is_refused(parts: Parts, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    sentence = f"{start}: no such file; expected the plain part of an adversarial training."
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        train_adversarial(
            session(tmp_path / "x"), parts, TRAINING, Vanilla(0.02), width=2, start=start
        )
