"""The epoch loop: train, validate, keep the best weights, stop early, resume.

The loop has no opinion about what is trained: it drives anything that is `Trainable`. All that is
random in an epoch follows from (seed, epoch), so a run killed at any moment and started again
continues from its last epoch and ends with the same weights, bit for bit on one machine.

Where several processes train together (`servax.training.team`), all of them train, and the main one
validates, decides, reports and writes; the others go by what it found.
"""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch

from servax.errors import CheckpointError, ServaxError, unwritable
from servax.files import remove_unfinished, whole_file
from servax.kinds import COUNT, Choice, Rules, check_types
from servax.training.log import TrainingLog
from servax.training.seeding import global_seed
from servax.training.team import current

CHECKPOINT = "checkpoint.pt"
Terms = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """How long to train and what decides which weights are kept."""

    epochs: int
    """Most epochs."""
    patience: int
    """Epochs without a better value of `monitor` before training stops."""
    monitor: str
    """Term of the log that is watched, e.g. `validation/loss`."""
    mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher value is better."""

    RULES: ClassVar[Rules] = {
        "epochs": COUNT,
        "patience": COUNT,
        "mode": Choice(("min", "max")),
    }

    def __post_init__(self) -> None:
        check_types(self)


class Trainable(Protocol):
    """What the loop needs of a training."""

    def train_epoch(self, epoch: int, tick: Callable[[], None]) -> Terms:
        """Train one epoch, call `tick` after each step, return the mean loss terms."""

    def validate(self, epoch: int) -> Terms:
        """Return the terms on the validation part."""

    def steps_per_epoch(self) -> int:
        """Return how often `train_epoch` ticks."""

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""

    def weights(self) -> dict[str, Any]:
        """Return a copy of the weights worth keeping."""

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Put back what `weights` returned."""


@dataclass(frozen=True)
class Progress:
    """Where a training is, given to a progress callback after each step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    terms: Terms
    """Terms of the last finished epoch."""


@dataclass(frozen=True)
class Fitted:
    """What a training came to."""

    best_epoch: int
    """Epoch whose weights were kept, from 0."""
    best: float
    """Value of the monitored term at that epoch."""
    epochs: int
    """Epochs trained."""


def fit(
    training: Trainable,
    schedule: Schedule,
    folder: Path,
    *,
    seed: int,
    settings: str,
    progress: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Train until the schedule ends and leave `training` with its best weights.

    Args:
        training: What to train.
        schedule: How long, and which term decides.
        folder: Holds the checkpoint and the log; a checkpoint found there is resumed.
        seed: Seeds all that an epoch draws.
        settings: Text that identifies the run; a checkpoint of another text is refused.
        progress: Called after each step.

    Raises:
        CheckpointError: The checkpoint is broken or belongs to another run.
        ServaxError: A term is not finite.
    """
    team = current()
    path = folder / CHECKPOINT
    epoch, best, best_epoch, best_weights = 0, math.inf, -1, training.weights()
    saved = team.from_main(load_checkpoint(path, settings=settings) if team.main else None)
    if saved is not None:
        training.load_state(saved["training"])
        epoch, best, best_epoch = saved["epoch"], saved["best"], saved["best_epoch"]
        best_weights = saved["best_weights"]
    sign = 1.0 if schedule.mode == "min" else -1.0
    terms: Terms = {}
    with closing(TrainingLog(folder, first_epoch=epoch)) if team.main else nullcontext() as log:
        while epoch < schedule.epochs and epoch - best_epoch <= schedule.patience:
            tick = _ticker(training, schedule, epoch, terms, progress if team.main else None)
            with global_seed(seed, "epoch", epoch):
                terms = training.train_epoch(epoch, tick)
                terms = team.from_main(terms | training.validate(epoch) if team.main else terms)
            _refuse_divergence(terms, epoch)
            score = sign * terms[schedule.monitor]
            if score < best:
                best, best_epoch, best_weights = score, epoch, training.weights()
            epoch += 1
            if log is None:
                continue
            log.write(epoch - 1, terms)
            save_checkpoint(
                path,
                {
                    "settings": settings,
                    "epoch": epoch,
                    "best": best,
                    "best_epoch": best_epoch,
                    "best_weights": best_weights,
                    "training": training.state(),
                },
            )
    training.load_weights(best_weights)
    return Fitted(best_epoch=best_epoch, best=sign * best, epochs=epoch)


def _refuse_divergence(terms: Terms, epoch: int) -> None:
    # Every term, since a recogniser of NaN weights still has a UAR: that of its first class.
    for name, value in terms.items():
        if not math.isfinite(value):
            raise ServaxError(
                f"training diverged: {name} is {value} in epoch {epoch + 1}; lower the learning "
                "rate, or clip the gradient harder."
            )


def _ticker(
    training: Trainable,
    schedule: Schedule,
    epoch: int,
    terms: Terms,
    progress: Callable[[Progress], None] | None,
) -> Callable[[], None]:
    steps, done = training.steps_per_epoch(), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(Progress(epoch, schedule.epochs, done, steps, terms))

    return tick


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) so that a kill leaves old or new.

    Raises:
        CheckpointError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(path, unwritable(error)) from None


def load_checkpoint(path: Path, *, settings: str) -> dict[str, Any] | None:
    """Return the state in `path`, or none when there is no checkpoint yet.

    Args:
        path: Written by `save_checkpoint`.
        settings: What the run would do now; a checkpoint of other settings is refused.

    Raises:
        CheckpointError: The file is broken or belongs to other settings.
    """
    remove_unfinished(path.parent)
    if not path.exists():
        return None
    state = _read(path)
    if not isinstance(state, dict) or state.get("settings") != settings:
        raise CheckpointError(
            path,
            "belongs to a run with other settings; choose another output folder, or delete it to "
            "start again",
        )
    return state


def _read(path: Path) -> Any:
    damaged = CheckpointError(
        path, "is not a training checkpoint, or is damaged; delete it to start again"
    )
    try:
        # torch.save writes a zip archive, whose checksums torch.load does not look at.
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None
    except Exception:  # a broken archive fails in zipfile in more ways than BadZipFile
        intact = False
    if not intact:
        raise damaged
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the file that the refusal makes needless
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # bytes that are not a checkpoint fail in torch.load in any way there is
        raise damaged from None
