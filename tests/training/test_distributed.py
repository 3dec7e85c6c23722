"""Two CPU processes against one: the same weights, and no process left behind by another's end.

Compared in float64, where only the order of additions differs: to 1e-6 of each weight after several
steps of AdamW, whose first steps turn the sign of a gradient into a move.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import ServaxError, SettingError
from servax.features import Batch, Dataset, SpecAugment
from servax.models import VGG16
from servax.training import (
    Compute,
    Processes,
    RecogniserTrainer,
    RecogniserTraining,
    Schedule,
    Team,
    current,
    fit,
    generator,
    global_seed,
    launch,
    read_log,
)
from servax.training.processes import PLACE
from servax.training.team import with_global_batch_norm

Build = Callable[..., Dataset]
CPU = torch.device("cpu")
SCENES = ("whole", "resumed", "lonely")
"""Uneven batches; an epoch by one process, the next by two; a batch of one utterance."""
LABELS = [0, 1, 2, 3, 0, 0, 1, 0, 2, 0, 3]
"""In batches of 4: 4, 4 and 3, which two processes cannot share evenly."""
SETTINGS = RecogniserTraining(
    epochs=2,
    batch_size=4,
    learning_rate=0.01,
    augment=SpecAugment(time_width=10, mel_width=6),
)


class Doubled(Dataset):
    """The same utterances in float64, where the order of additions does not matter to 1e-6."""

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        batch = super().batch(positions, device)
        return Batch(batch.x.double(), batch.y, batch.positions)


def train(
    dataset: Dataset, folder: Path, *, epochs: int = 2, weigh: bool = True, last: int | None = None
) -> None:
    """Train as `servax train recogniser` does; each process stores the weights it ends with.

    Args:
        dataset: Trains and validates.
        folder: Of the training.
        epochs: Fewer than the settings' stop in between.
        weigh: Whether classes have weights.
        last: Size of a last batch, instead of what is left over.
    """
    with global_seed(0, "weights"):
        network = VGG16(4, 2).double()
    settings = replace(SETTINGS, class_weights=weigh)
    trainer = RecogniserTrainer(network, dataset, dataset, settings, seed=5, compute=Compute("cpu"))
    trainer._loss.double()
    if last is not None:
        trainer._order = lambda epoch: [np.arange(4), np.arange(4, 4 + last)]  # type: ignore[method-assign]
    schedule = Schedule(epochs, epochs, monitor="train/learning_rate")  # the last is kept
    fitted = fit(trainer, schedule, folder, seed=5, settings="")
    ends = {"network": network.state_dict(), "epochs": fitted.epochs}
    torch.save(ends, folder / f"rank-{current().rank}.pt")


def scenes(dataset: Dataset, folder: Path) -> None:
    """Do in one team what several tests look at: processes take seconds to start."""
    train(dataset, folder / "two-whole")
    train(dataset, folder / "two-resumed", weigh=False)
    train(dataset, folder / "two-lonely", last=1)
    batch_norms(folder)


def batch_norms(folder: Path) -> None:
    """Pass batches through a batch norm, shared in several ways."""
    team = current()
    ends = []
    for sizes in ((3, 2), (4, 0), (0, 2)):
        norm = with_global_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), team.total).double()
        x, slope = whole_batch(sum(sizes))
        own = slice(0, sizes[0]) if team.main else slice(sizes[0], None)
        leaf = x[own].clone().requires_grad_(True)
        y = norm(leaf)
        y.backward(slope[own])
        ends.append(
            {
                "y": y.detach(),
                "x": leaf.grad,
                "weights": [team.total(p.grad) for p in norm.parameters() if p.grad is not None],
                "statistics": norm.state_dict(),
            }
        )
    torch.save(ends, folder / f"norms-{team.rank}.pt")


def whole_batch(count: int) -> tuple[Tensor, Tensor]:
    draws = generator(count, "batch")
    x, slope = (torch.randn(count, 3, 2, 5, generator=draws, dtype=torch.float64) for _ in "xy")
    return 2.0 + 3.0 * x, slope


@pytest.fixture(scope="module")
def trained(make_dataset: Callable[..., Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of trainings by one process and by two."""
    dataset = make_dataset(LABELS)
    dataset.__class__ = Doubled
    folder = tmp_path_factory.mktemp("trained")
    for number in ("one", "two"):
        for name in SCENES:
            (folder / f"{number}-{name}").mkdir()
    train(dataset, folder / "one-whole")
    train(dataset, folder / "one-resumed", weigh=False)
    train(dataset, folder / "one-lonely", last=1)
    train(dataset, folder / "two-resumed", weigh=False, epochs=1)
    launch(partial(scenes, dataset, folder), Processes(devices=2), device=CPU)
    return folder


def weights(path: Path) -> dict[str, Tensor]:
    ends: dict[str, Any] = torch.load(path, weights_only=True)
    assert ends["epochs"] == 2
    return dict(ends["network"])


@pytest.mark.parametrize("scene", SCENES)
def test_two_processes_end_with_the_weights_of_one(trained: Path, scene: str) -> None:
    expected = weights(trained / f"one-{scene}/rank-0.pt")
    main, other = (weights(trained / f"two-{scene}/rank-{rank}.pt") for rank in (0, 1))
    assert any("running_var" in name for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(main[name], value, rtol=1e-6, atol=1e-8)
        assert torch.equal(main[name], other[name]), name


@pytest.mark.parametrize("scene", SCENES)
def test_the_log_is_written_once_and_tells_the_same(trained: Path, scene: str) -> None:
    expected, found = (read_log(trained / f"{n}-{scene}/log.jsonl") for n in ("one", "two"))
    assert len(found) == len(expected) == 2
    for line, wanted in zip(found, expected, strict=True):
        assert list(line) == list(wanted)
        assert line == pytest.approx(wanted, rel=1e-6)


def test_batch_norm_is_torchs_on_the_whole_batch(trained: Path) -> None:
    ends = [torch.load(trained / f"norms-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for first, second, count in zip(*ends, (5, 4, 2), strict=True):
        norm = nn.Sequential(nn.BatchNorm2d(3)).double()
        x, slope = whole_batch(count)
        x.requires_grad_(True)
        y = norm(x)
        y.backward(slope)
        torch.testing.assert_close(torch.cat([first["y"], second["y"]]), y.detach())
        torch.testing.assert_close(torch.cat([first["x"], second["x"]]), x.grad)
        for ours, parameter in zip(first["weights"], norm.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter.grad)
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(first["statistics"][name], value)
            torch.testing.assert_close(second["statistics"][name], value)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d(3), nn.BatchNorm2d(3, affine=False)])
def test_a_batch_norm_that_would_see_a_part_only_is_refused(kind: nn.Module) -> None:
    sentence = (
        f"batch norm is {repr(kind)!r}, expected a BatchNorm2d with weights and running "
        "statistics, where several processes train."
    )
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        with_global_batch_norm(nn.Sequential(kind), torch.clone)


def fail(how: str) -> None:
    team = current()
    if team.rank == 1 and how == "refusal":
        raise SettingError("epsilon", -1, "a number of at least 0")
    if team.rank == 1 and how == "error":
        raise IndexError("nothing there")
    if team.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    team.total(torch.ones(1))  # which the other never joins
    time.sleep(600)


@pytest.fixture
def _quickly_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork processes from one that has imported all; how they end is the same."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["servax.training", "accelerate"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


@pytest.mark.usefixtures("_quickly_started")
@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [
        ("refusal", 2, "epsilon is -1, expected a number of at least 0."),
        (
            "error",
            1,
            "process 2 of 2 failed: IndexError: nothing there; the others were ended.",
        ),
        (
            "kill",
            1,
            "process 2 of 2 was ended by signal 9 (SIGKILL), which is what happens when memory "
            "runs out; the others were ended.",
        ),
    ],
)
def test_a_failing_process_ends_all_with_one_sentence(how: str, code: int, sentence: str) -> None:
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}") as caught:
        launch(partial(fail, how), Processes(devices=2), device=CPU)
    assert (str(caught.value), caught.value.exit_code) == (sentence, code)
    assert (how == "kill") == (not getattr(caught.value, "__notes__", []))


WAITING = """
import os, signal, time, torch
from servax.training import Processes, current, launch

def work():
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: two prints can mix on one pipe
    if current().main:
        time.sleep(600)
    current().total(torch.ones(1))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    launch(work, Processes(devices=2), device=torch.device("cpu"))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_starter_is_the_end_of_all(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        try:
            members = [int(starter.stdout.readline()) for _ in range(2)]
            starter.send_signal(how)
            starter.communicate(timeout=30)  # ends when the last that holds the pipes does
        finally:
            starter.kill()  # a failure must not wait for ever; nothing where it has ended
        assert starter.returncode != 0
    for member in members:
        assert not runs(member)


def runs(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def test_alone_everything_is_handed_back(tmp_path: Path) -> None:
    team, x, draws = Team(), torch.rand(3, 2), generator(0)
    assert team == current()
    assert team.cut(x) is x
    assert team.total(x) is x
    assert team.draws(draws, 3) is draws
    assert team.from_main(draws) is draws
    assert team.share(7, 7) == 1.0
    assert team.parallel(network := nn.Sequential()) is network
    assert team.means({"a": torch.tensor(2.0)}, 1.0) == {"a": 2.0}
    done: list[int] = []
    launch(lambda: done.append(os.getpid()), device=CPU)
    assert done == [os.getpid()]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 16])
def test_every_utterance_has_one_process(size: int, count: int) -> None:
    parts = [list(range(count))[Team(rank, size).rows(count)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes)


def test_what_is_drawn_is_cut_from_the_draws_of_one_process() -> None:
    from servax.perturbation import L2, Linf

    like = torch.zeros(5, 1, 3, 4)
    for ball in (Linf(0.1), L2(2.0)):
        expected = ball.sample(like, generator(3))
        for rank in range(2):
            team = Team(rank, 2)
            part = ball.sample(team.cut(like), team.draws(generator(3), 5))
            assert torch.equal(part, team.cut(expected))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"devices": 0}, "devices is 0, expected a whole number of at least 1."),
        ({"nodes": -1}, "nodes is -1, expected a whole number of at least 1."),
        (
            {"node_rank": 1},
            "node_rank is 1, expected none with one machine; give nodes too.",
        ),
        (
            {"nodes": 2},
            "node_rank is None, expected a machine from 0 to 1, as an option or in NODE_RANK.",
        ),
        (
            {"nodes": 2, "node_rank": 2},
            "node_rank is 2, expected a machine from 0 to 1, as an option or in NODE_RANK.",
        ),
        (
            {"nodes": 2, "node_rank": 0, "main_address": "here"},
            "main_address is 'here', expected host:port of machine 0, as an option or in "
            "MASTER_ADDR and MASTER_PORT.",
        ),
    ],
)
def test_what_cannot_be_started_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        launch(nobody, Processes(**given), device=CPU, prepare=nobody)


def nobody() -> None:
    pytest.fail("work was done before the refusal")


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingError, match=r"^devices is 3, expected at most 2, this machine's\.$"):
        launch(nobody, Processes(devices=3), device=torch.device("cuda"))
    with pytest.raises(SettingError, match=r"^device is 'cuda:1', expected auto, cuda or cpu "):
        launch(nobody, Processes(devices=2), device=torch.device("cuda", 1))


def test_a_launcher_around_the_command_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(PLACE, ("0", "3", "0", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(
        SettingError, match=r"^devices times nodes is 2, expected 3, the processes "
    ):
        launch(nobody, Processes(devices=2), device=CPU)
