from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from servax.errors import CheckpointError, ServaxError, SettingError
from servax.training import Fitted, Progress, Schedule, fit, read_log


class Scripted:
    """A training whose validation values are written down beforehand; a weight counts epochs."""

    def __init__(self, values: Sequence[float], *, steps: int = 3) -> None:
        self.values, self.steps = values, steps
        self.trained = 0
        self.drawn: list[float] = []

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> dict[str, float]:
        for _ in range(self.steps):
            self.drawn.append(float(torch.rand(())))
            tick()
        self.trained = epoch + 1
        return {"train/loss": 1.0}

    def validate(self, epoch: int) -> dict[str, float]:
        return {"validation/value": self.values[epoch]}

    def steps_per_epoch(self) -> int:
        return self.steps

    def state(self) -> dict[str, Any]:
        return {"trained": self.trained, "drawn": list(self.drawn)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.trained, self.drawn = state["trained"], list(state["drawn"])

    def weights(self) -> dict[str, Any]:
        return {"trained": self.trained}

    def load_weights(self, weights: dict[str, Any]) -> None:
        self.trained = weights["trained"]


def schedule(epochs: int, patience: int, mode: Literal["min", "max"] = "min") -> Schedule:
    return Schedule(epochs, patience, monitor="validation/value", mode=mode)


@pytest.mark.parametrize(
    ("values", "epochs", "patience", "mode", "expected"),
    [
        # Better in epochs 0 and 1; epochs 2 and 3 are the two that patience allows.
        ([5.0, 4.0, 4.5, 4.2, 3.0], 5, 2, "min", Fitted(best_epoch=1, best=4.0, epochs=4)),
        ([5.0, 4.0, 4.5, 4.2, 3.0], 5, 3, "min", Fitted(best_epoch=4, best=3.0, epochs=5)),
        ([5.0, 4.0, 4.5, 4.2, 3.0], 5, 1, "min", Fitted(best_epoch=1, best=4.0, epochs=3)),
        # An equal value is not a better one.
        ([1.0, 1.0, 1.0, 0.5], 4, 2, "min", Fitted(best_epoch=0, best=1.0, epochs=3)),
        ([0.3, 0.5, 0.5, 0.4, 0.9], 5, 2, "max", Fitted(best_epoch=1, best=0.5, epochs=4)),
        ([0.3, 0.5, 0.5, 0.4, 0.9], 5, 3, "max", Fitted(best_epoch=4, best=0.9, epochs=5)),
        ([3.0, 2.0, 1.0], 3, 1, "min", Fitted(best_epoch=2, best=1.0, epochs=3)),
        ([3.0, 2.0, 1.0], 2, 5, "min", Fitted(best_epoch=1, best=2.0, epochs=2)),
        ([-1.0, -2.0], 2, 5, "max", Fitted(best_epoch=0, best=-1.0, epochs=2)),
        ([7.0], 1, 1, "min", Fitted(best_epoch=0, best=7.0, epochs=1)),
    ],
)
def test_stops_early_and_puts_the_best_weights_back(
    tmp_path: Path,
    values: list[float],
    epochs: int,
    patience: int,
    mode: Literal["min", "max"],
    expected: Fitted,
) -> None:
    training = Scripted(values)
    fitted = fit(training, schedule(epochs, patience, mode), tmp_path, seed=0, settings="")
    assert fitted == expected
    assert training.trained == expected.best_epoch + 1
    logged = [
        (line["epoch"], line["validation/value"]) for line in read_log(tmp_path / "log.jsonl")
    ]
    assert logged == list(enumerate(values))[: expected.epochs]


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    values = [5.0, 4.0, 4.5, 4.2, 3.0]
    first = fit(Scripted(values), schedule(5, 2), tmp_path, seed=0, settings="")
    again = Scripted([math.nan] * 5)
    assert fit(again, schedule(5, 2), tmp_path, seed=0, settings="") == first
    assert again.trained == 2
    assert len(read_log(tmp_path / "log.jsonl")) == 4


def test_progress_is_told_after_each_step(tmp_path: Path) -> None:
    told: list[Progress] = []
    fit(
        Scripted([2.0, 1.0], steps=2),
        schedule(2, 5),
        tmp_path,
        seed=0,
        settings="",
        progress=told.append,
    )
    assert [(p.epoch, p.epochs, p.step, p.steps) for p in told] == [
        (0, 2, 1, 2),
        (0, 2, 2, 2),
        (1, 2, 1, 2),
        (1, 2, 2, 2),
    ]
    assert told[0].terms == {}
    assert told[-1].terms == {"train/loss": 1.0, "validation/value": 2.0}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", range(1, 16))
def test_resumes_wherever_it_was_interrupted(tmp_path: Path, moment: int) -> None:
    values = [5.0, 4.0, 4.5, 3.0, 3.5]
    whole = Scripted(values)
    expected = fit(whole, schedule(5, 2), tmp_path / "whole", seed=4, settings="")

    def stop(progress: Progress) -> None:
        if progress.epoch * 3 + progress.step == moment:
            raise KilledError

    folder = tmp_path / "killed"
    with pytest.raises(KilledError):
        fit(Scripted(values), schedule(5, 2), folder, seed=4, settings="", progress=stop)
    resumed = Scripted(values)
    assert fit(resumed, schedule(5, 2), folder, seed=4, settings="") == expected
    assert (resumed.trained, resumed.drawn) == (whole.trained, whole.drawn)
    assert (folder / "log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


def test_an_epoch_logged_but_not_checkpointed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [3.0, 2.0, 1.0]
    fit(Scripted(values), schedule(3, 5), tmp_path / "whole", seed=4, settings="")
    saved = []

    def save_twice(path: Path, state: dict[str, Any]) -> None:
        if len(saved) == 2:
            raise KilledError
        saved.append(path)
        torch.save(state, path)

    folder = tmp_path / "killed"
    monkeypatch.setattr("servax.training.loop.save_checkpoint", save_twice)
    with pytest.raises(KilledError):
        fit(Scripted(values), schedule(3, 5), folder, seed=4, settings="")
    assert len(read_log(folder / "log.jsonl")) == 3
    monkeypatch.undo()
    fit(Scripted(values), schedule(3, 5), folder, seed=4, settings="")
    assert (folder / "log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


def test_what_an_epoch_draws_follows_from_the_seed(tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> list[float]:
        training = Scripted([2.0, 1.0])
        fit(training, schedule(2, 5), tmp_path / name, seed=seed, settings="")
        return training.drawn

    torch.manual_seed(11)
    untouched = torch.rand(3)
    torch.manual_seed(11)
    first = drawn("a", 1)
    assert torch.equal(torch.rand(3), untouched)
    assert drawn("b", 1) == first
    assert drawn("c", 2) != first
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_finite_ends_training(
    tmp_path: Path, value: float, mode: Literal["min", "max"]
) -> None:
    sentence = (
        f"training diverged: validation/value is {value} in epoch 2; lower the learning rate, or "
        "clip the gradient harder."
    )
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        fit(Scripted([1.0, value]), schedule(2, 5, mode), tmp_path, seed=0, settings="")
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def test_a_loss_that_is_not_finite_ends_training_whatever_is_monitored(tmp_path: Path) -> None:
    training = Scripted([0.25, 0.25])
    training.train_epoch = lambda epoch, tick: {"train/loss": math.nan}  # type: ignore[method-assign]
    with pytest.raises(ServaxError, match=r"^training diverged: train/loss is nan in epoch 1; "):
        fit(training, schedule(2, 5, "max"), tmp_path, seed=0, settings="")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit(Scripted([1.0]), schedule(1, 1), tmp_path, seed=0, settings="lr 1")
    sentence = (
        f"{tmp_path / 'checkpoint.pt'}: belongs to a run with other settings; choose another "
        "output folder, or delete it to start again."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        fit(Scripted([1.0]), schedule(1, 1), tmp_path, seed=0, settings="lr 2")


@pytest.mark.parametrize("name", ["epochs", "patience"])
@pytest.mark.parametrize("value", [0, -3])
def test_schedule_refuses(name: str, value: int) -> None:
    sentence = rf"^{name} is {value}, expected a whole number of at least 1\.$"
    with pytest.raises(SettingError, match=sentence):
        Schedule(**{"epochs": 2, "patience": 2, "monitor": "validation/value", name: value})


def test_schedule_refuses_another_mode() -> None:
    with pytest.raises(SettingError, match=r"^mode is 'lowest', expected one of max, min\.$"):
        Schedule(2, 2, monitor="validation/value", mode="lowest")  # type: ignore[arg-type]
