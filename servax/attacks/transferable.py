"""PGD whose results fool other models too: with momentum, and through shrunk copies of the input.

Momentum: MI-FGSM, Dong et al. 2018, "Boosting adversarial attacks with momentum" (algorithm 1).
Diverse inputs: Xie et al. 2019, "Improving transferability of adversarial examples with input
diversity" (DI-FGSM; with momentum M-DI-FGSM). Differs in: utterances are drawn for one by one, so
that none depends on its batch; both sides shrink by the same rate, so that H may differ from W; the
padding is the valid value nearest to zero, since zero need not be valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from servax.attacks.early_stopping import Show, walk
from servax.attacks.gradient import PGD
from servax.attacks.losses import LOSSES
from servax.attacks.problem import Problem
from servax.errors import SettingError, ShapeError
from servax.kinds import renamed
from servax.perturbation import Bounds
from servax.training import drawn


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class MomentumPGD(PGD):
    """PGD along a running sum of gradients (MI-FGSM, eq. 6 and 7)."""

    decay: float = 1.0
    """What is kept of the earlier gradients, each divided by its mean magnitude; 0 is PGD."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < float("inf"):
            raise SettingError("decay", self.decay, "a finite number of at least 0")

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Yield x_1 ... x_steps."""
        return walk(
            problem,
            self.ball,
            loss=LOSSES[self.loss],
            step=self.step,
            steps=int(self.steps),
            start=self.start(problem),
            decay=self.decay,
            show=self.show(problem),
            early_stop=self.early_stop,
        )

    def show(self, problem: Problem) -> Show | None:
        """Return what the model sees instead of an input when a gradient is taken; None: itself."""
        return None


@renamed(radius="epsilon", leave="early_stop")
@dataclass(frozen=True, kw_only=True)
class DiversePGD(MomentumPGD):
    """PGD whose gradients are taken at randomly shrunk and padded copies of the inputs.

    An input (B, M, F) or (B, C, M, F) shrinks in its last two sides, a waveform (B, T) in time.
    """

    decay: float = 0.0
    """What is kept of the earlier gradients, each divided by its mean magnitude; 0 is DI-FGSM."""
    probability: float = 0.5
    """With which a step sees a shrunk copy of an utterance."""
    smallest: float = 0.9
    """Smallest size of a copy, as a share of the input's; drawn uniformly up to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.probability <= 1:
            raise SettingError("probability", self.probability, "a number in (0, 1]")
        if not 0 < self.smallest < 1:
            raise SettingError("smallest", self.smallest, "a number in (0, 1)")

    def show(self, problem: Problem) -> Show:
        """Return the draw of copies; it draws for the whole batch whatever rows are asked for."""
        generator, whole = problem.random(), problem.x
        if whole.ndim > 4:
            raise ShapeError("x", whole.shape, "(B, T), (B, M, F) or (B, C, M, F) for DiversePGD")

        def shown(z: Tensor, rows: Tensor) -> Tensor:
            shape = torch.Size((len(whole), 4))
            draws = drawn(torch.rand, shape, generator, z.dtype).to(z.device)[rows]
            rate = self.smallest + (1.0 - self.smallest) * draws[:, 1]
            rate = torch.where(draws[:, 0] < self.probability, rate, torch.ones_like(rate))
            return shrunk(z, rate, draws[:, 2:], padding(self.bounds))

        return shown


def padding(bounds: Bounds) -> float:
    """Return the valid value nearest to zero."""
    low, high = bounds
    return min(max(0.0, low), high)


def shrunk(x: Tensor, rate: Tensor, place: Tensor, fill: float) -> Tensor:
    """Return copies of the shape of `x`, each shrunk, moved and padded by its own draw.

    Interpolation is linear as in torch's ``interpolate(align_corners=False)``; gradients pass.

    Args:
        x: Inputs (B, T), (B, M, F) or (B, C, M, F).
        rate: Share of each side that the copy keeps, (B,), in (0, 1]; sides are rounded.
        place: Where the copy lies in the room that is left, as shares (B, 2) in [0, 1): down, and
            to the right.
        fill: Value around the copy.
    """
    image = x[:, None, None] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x
    height, width = image.shape[2:]
    down, tall = _along(height, rate, place[:, 0])  # (B, H)
    right, wide = _along(width, rate, place[:, 1])  # (B, W)
    shape = (len(x), height, width)
    grid = torch.stack([right[:, None].expand(shape), down[:, :, None].expand(shape)], dim=3)
    copies = nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    inside = (tall[:, :, None] & wide[:, None])[:, None]  # (B, 1, H, W)
    return torch.where(inside, copies, torch.full_like(copies, fill)).reshape(x.shape)


def _along(size: int, rate: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return for one side where each element (B, size) is read, on [-1, 1], and if it is at all."""
    kept = (rate * size).round().clamp(1, size)
    first = (place * (size - kept + 1)).floor()
    element = torch.arange(size, dtype=rate.dtype, device=rate.device)
    offset = element - first[:, None]
    inside = (offset >= 0) & (offset < kept[:, None])
    return (2.0 * offset + 1.0) / kept[:, None] - 1.0, inside
