"""One change for all utterances: a universal perturbation, fitted on a training set.

Shafahi et al. 2020, "Universal adversarial training", algorithm 1: projected stochastic gradient
ascent on the mean over utterances of the clipped loss min(loss, beta). Departure: the steps are
steepest steps of either norm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from servax.attacks.base import BallAttack, Labels, Norm, evaluating
from servax.attacks.gradient import STRIDE, check_whole
from servax.attacks.losses import cross_entropy
from servax.attacks.problem import Problem
from servax.attacks.queries import check_positive
from servax.errors import CheckpointError, ServaxError, SettingError, ShapeError, unwritable
from servax.features import check_tensor
from servax.files import json_text, whole_file
from servax.kinds import check, check_kind, renamed, typed
from servax.perturbation import (
    L2,
    Bounds,
    Linf,
    Masked,
    Objective,
    input_gradient,
    into_ball,
    into_bounds,
    into_reach,
)

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]
"""Inputs (B, ...), classes (B,) and, if need be, the mask of where the inputs may change."""
CHANGE = "change.safetensors"
SETTINGS = "settings.json"
EVERYWHERE: Bounds = (-math.inf, math.inf)
NORMS: Mapping[str, Norm] = {"Linf": Linf, "L2": L2}


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True, eq=False)
class UniversalPerturbation(BallAttack):
    """The same change added to every input; made by `fit`, and asks the model nothing."""

    change: Tensor
    """What is added (1, ...), in units of the input."""
    epsilon: float
    """Size of the ball it was fitted in, in units of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("change", self.change, "Tensor")
        if self.change.ndim < 2 or len(self.change) != 1:
            raise ShapeError("change", self.change.shape, "(1, ...), one change for all inputs")
        size = float(self.ball.norm(self.change))
        if not size <= self.epsilon * (1 + 1e-5):
            raise SettingError("change", f"{size:.4g} large", f"at most epsilon, {self.epsilon:g}")

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield the inputs with the change."""
        yield self.apply(problem.x, mask=problem.mask)

    def apply(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return inputs (B, ...) with the change, inside the bounds.

        Args:
            x: Inputs of the shape that the change was fitted for.
            mask: Where they may change, as for a call.

        Raises:
            ShapeError: They have another shape.
        """
        if x.shape[1:] != self.change.shape[1:]:
            sizes = ", ".join(map(str, self.change.shape[1:]))
            raise ShapeError("x", x.shape, f"(B, {sizes}), as the change was fitted")
        z = _changed(x, self.change.to(x), self.bounds, mask)
        ball = self.ball if mask is None else Masked(self.ball, mask)
        return into_ball(x, z, ball)

    @classmethod
    @renamed(radius="epsilon")
    @typed
    def fit(
        cls,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        generator: torch.Generator,
        epsilon: float = 0.02,
        norm: Norm = Linf,
        step: float | None = None,
        epochs: int = 5,
        clip: float = 9.0,
        bounds: Bounds = (0.0, 1.0),
        labels: Labels = "true",
        targeted: bool = False,
    ) -> Self:
        """Return the change that raises the mean loss of a training set.

        Args:
            model: From inputs (B, ...) to logits (B, C); in evaluation mode meanwhile.
            batches: Inputs and classes, all inputs of one shape; a mask may be the third.
            generator: Draws the order of the batches, anew in each epoch.
            epsilon: Size of the ball, in units of the input.
            norm: `Linf` or `L2`.
            step: Length of a step, one for each batch, in units of the input; default `STRIDE` of
                epsilon.
            epochs: How often each batch is seen.
            clip: The paper's beta: an utterance of a higher cross-entropy counts no more.
            bounds: Lowest and highest value of a valid input.
            labels: As for every attack.
            targeted: As for every attack.

        Raises:
            SettingError: A setting or an input has no valid value, or there is no batch.
            ShapeError: The batches do not fit together, or the model's logits are not (B, C).
        """
        if step is not None:
            check_positive("step", step)
        check_positive("clip", clip)
        check_whole("epochs", epochs)
        check_kind("batches", batches, Sequence)
        if len(batches) == 0:
            raise SettingError("batches", "empty", "at least one batch to fit the change on")
        for batch in batches:
            check_kind("a batch", batch, tuple)
            check_tensor("x", batch[0] if batch else None)
        blank = torch.zeros_like(batches[0][0][:1].detach())
        settings: dict[str, Any] = {"bounds": bounds, "labels": labels, "targeted": targeted}
        start = cls(change=blank, epsilon=epsilon, norm=norm, **settings)
        step, change = STRIDE * epsilon if step is None else step, blank
        with evaluating(model):
            for _ in range(int(epochs)):
                for position in torch.randperm(len(batches), generator=generator).tolist():
                    change = start._climbed(model, batches[position], change, step, clip)
        return cls(change=change, epsilon=epsilon, norm=norm, **settings)

    @typed
    def save(self, folder: str | Path) -> None:
        """Write the change (safetensors) and the settings (JSON) to a folder, made when missing.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        folder = Path(folder)
        settings = {
            "epsilon": self.epsilon,
            "norm": self.norm.__name__,
            "bounds": list(self.bounds),
            "labels": self.labels,
            "targeted": self.targeted,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(folder / SETTINGS) as part, whole_file(folder / CHANGE) as change:
                change.write_bytes(save({"change": self.change.cpu().contiguous()}))
                part.write_text(json_text(settings, sort_keys=True) + "\n", encoding="utf-8")
                # They go last: a save that was cut off is refused, never taken for another's.
                (folder / SETTINGS).unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(folder, unwritable(error)) from None

    @classmethod
    @typed
    def load(cls, folder: str | Path) -> Self:
        """Return the perturbation saved in a folder.

        Raises:
            CheckpointError: A file is missing or broken, or they do not fit together.
        """
        folder = Path(folder)
        for name in (CHANGE, SETTINGS):
            if not (folder / name).is_file():
                raise CheckpointError(
                    folder / name,
                    "no such file; expected a folder written by UniversalPerturbation.save",
                )
        try:
            change = load_file(folder / CHANGE)["change"]
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            # Of folders that servax 0.1 wrote.
            settings = {"epsilon" if key == "radius" else key: settings[key] for key in settings}
            settings["norm"] = NORMS[settings["norm"]]
            settings["bounds"] = tuple(settings["bounds"])
            return cls(change=change, **settings)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error) if isinstance(error, ServaxError) else "is cut short or altered"
            raise CheckpointError(folder, f"holds no universal perturbation: {reason}") from None

    def _climbed(
        self, model: nn.Module, batch: Batch, change: Tensor, step: float, clip: float
    ) -> Tensor:
        """Return the change after one step on one batch."""
        x, y = batch[0], batch[1]
        mask = batch[2] if len(batch) == 3 else None
        if x.shape[1:] != change.shape[1:]:
            sizes = ", ".join(map(str, change.shape[1:]))
            raise ShapeError("x", x.shape, f"(B, {sizes}), as the first batch")
        with self.facing(model, x, y, mask=mask) as problem:
            gradient = input_gradient(_clipped(problem, clip), change.to(x))
        stepped = change + step * self.ball.steepest(gradient).to(change)
        return into_reach(torch.zeros_like(change), stepped, self.ball, EVERYWHERE)


def _clipped(problem: Problem, clip: float) -> Objective:
    """Return the clipped gain (B,) of each utterance as a function of the one change (1, ...)."""

    def objective(change: Tensor) -> Tensor:
        z = _changed(problem.x, change, problem.bounds, problem.mask)
        return problem.gain(cross_entropy, problem.logits(z)).clamp(max=clip)

    return objective


def _changed(x: Tensor, change: Tensor, bounds: Bounds, mask: Tensor | None) -> Tensor:
    z = into_bounds(x, x + change, bounds)
    return z if mask is None else torch.where(mask, z, x)
