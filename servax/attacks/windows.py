"""Rectangles on inputs (n, c, H, W), one per utterance: the windows of the Square attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from servax.errors import ShapeError


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """One rectangle per utterance, in rows and columns; all int64 (n,), on the CPU."""

    top: Tensor
    """First row."""
    left: Tensor
    """First column."""
    height: Tensor
    """Number of rows."""
    width: Tensor
    """Number of columns."""

    def at(self, rows: Tensor) -> Windows:
        """Return the windows of some utterances."""
        return Windows(
            top=self.top[rows],
            left=self.left[rows],
            height=self.height[rows],
            width=self.width[rows],
        )

    def inside(self, like: Tensor) -> Tensor:
        """Return which places of inputs (n, c, H, W) lie inside, bool (n, 1, H, W)."""
        rows = _covered(self.top, self.height, like.shape[2])
        columns = _covered(self.left, self.width, like.shape[3])
        return (rows[:, None, :, None] & columns[:, None, None, :]).to(like.device)

    def sides(self, share: float, *, odd: bool = False) -> tuple[Tensor, Tensor]:
        """Return height and width (n,) of windows that cover `share` of these.

        They are squares where a square fits, and otherwise as tall (wide) as these are and of the
        same area. `odd`: of an odd side of at least three, where it fits.
        """
        area = share * self.height.double() * self.width
        side = area.sqrt().round().clamp(min=1.0)
        if odd:
            side = side.clamp(min=3.0)
            side = side + 1.0 - side % 2.0
        return self._fitted(side, area)

    def tiles(self, across: int) -> tuple[Tensor, Tensor]:
        """Return height and width (n,) of `across` ** 2 tiles, squares where they fit."""
        area = self.height.double() * self.width / across**2
        return self._fitted(area.sqrt().floor().clamp(min=1.0), area)

    def place(self, height: Tensor, width: Tensor, uniform: Tensor) -> Windows:
        """Return windows of these sides, somewhere inside, drawn by `uniform` (n, 2) in [0, 1)."""
        return Windows(
            top=self.top + (uniform[:, 0] * (self.height - height + 1)).long(),
            left=self.left + (uniform[:, 1] * (self.width - width + 1)).long(),
            height=height,
            width=width,
        )

    def _fitted(self, side: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
        """Return squares of a side (n,), or rectangles of an area (n,) where none fits."""
        short = torch.minimum(self.height, self.width)
        long = torch.maximum(self.height, self.width)
        narrow = torch.minimum(side, short).clamp(min=1.0)
        wide = torch.maximum((area / narrow).round(), side)
        wide = torch.minimum(torch.where(side > short, wide, side), long)
        lying = self.height <= self.width
        return torch.where(lying, narrow, wide).long(), torch.where(lying, wide, narrow).long()


def extents(allowed: Tensor) -> Windows:
    """Return the smallest windows around all true places of (n, c, H, W); empty where none is."""
    allowed = allowed.cpu().any(dim=1)
    top, height = _extent(allowed.any(dim=2))
    left, width = _extent(allowed.any(dim=1))
    return Windows(top=top, left=left, height=height, width=width)


def as_grid(x: Tensor) -> Tensor:
    """Return inputs as (n, c, H, W): a waveform (n, T) is one row of one channel.

    Raises:
        ShapeError: The inputs have more dimensions.
    """
    if x.ndim > 4:
        raise ShapeError("x", x.shape, "(B, T), (B, M, F) or (B, channels, M, F)")
    return x.reshape(len(x), *([1] * (4 - x.ndim)), *x.shape[1:])


def two_pyramids(windows: Windows, upright: Tensor, like: Tensor) -> Tensor:
    """Return patterns (n, 1, H, W) of norm one inside windows (Square, section 3.3, eq. 4).

    Each is cut in two halves of opposite sign, whose size falls with the distance to the middle of
    the half: the sum of 1 / k ** 2 from there to the rim.

    Args:
        windows: One for each utterance.
        upright: Whether the cut goes through the height (n,), else through the width.
        like: Inputs (n, c, H, W).
    """
    rows = _Axis(windows.top, windows.height, upright, like.shape[2])
    columns = _Axis(windows.left, windows.width, ~upright, like.shape[3])
    distance = torch.maximum(rows.distance[:, :, None], columns.distance[:, None, :])
    rim = torch.maximum(rows.rim[:, :, None], columns.rim[:, None, :])
    squares = torch.arange(1, int(rim.max()) + 1, dtype=torch.float64) ** -2.0
    partial = torch.cat([squares.new_zeros(1), squares.cumsum(0)])
    size = partial[rim] - partial[torch.minimum(distance, rim)]
    inside = windows.inside(like)[:, 0].cpu()
    second = rows.second[:, :, None] & columns.second[:, None, :]
    halves = _unit(size * (inside & ~second)) - _unit(size * (inside & second))
    return _unit(halves).unsqueeze(1).to(like)


class _Axis:
    """How places along one axis lie to the middle of their half of a window; all (n, length)."""

    def __init__(self, first: Tensor, size: Tensor, cut: Tensor, length: int) -> None:
        position = torch.arange(length) - first[:, None]
        # Uncut, everything is the second half.
        half = torch.where(cut, size // 2, torch.zeros_like(size))[:, None]
        self.second = position >= half
        own = torch.where(self.second, size[:, None] - half, half)
        self.distance = (position - half * self.second - own // 2).abs()
        self.rim = own // 2 + 1


def _covered(first: Tensor, size: Tensor, length: int) -> Tensor:
    position = torch.arange(length) - first[:, None]
    return (position >= 0) & (position < size[:, None])


def _extent(present: Tensor) -> tuple[Tensor, Tensor]:
    """Return first true place and length up to the last one of each row of (n, length)."""
    first = present.byte().argmax(dim=1)
    last = present.shape[1] - 1 - present.byte().flip(1).argmax(dim=1)
    some = present.any(dim=1)
    return first * some, (last - first + 1) * some


def _unit(pattern: Tensor) -> Tensor:
    norm: Tensor = pattern.flatten(1).norm(dim=1).clamp(min=1e-30)
    return pattern / norm[:, None, None]
