"""Square: random search with windows, from scores alone.

Andriushchenko et al. 2020, "Square attack: a query-efficient black-box adversarial attack via
random search", algorithms 1 to 3. Departures: an input may be a rectangle or a waveform, where a
window larger than the smaller side becomes a rectangle of the same area; windows stay inside the
part that may change; each utterance has windows of its own; the last place of a window is as likely
as the others; a window that would change nothing has its sign turned; the clean input is asked
about first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from servax.attacks.base import Problem
from servax.attacks.score_based import Found, QueryAttack, Search
from servax.errors import ShapeError
from servax.kinds import Rule, Rules, renamed
from servax.perturbation import Limit, Linf, into_reach, per_utterance, radius_of
from servax.training import drawn

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of 10 000 queries the share of the elements is halved."""
TILES = 5
"""The L2 start has as many tiles across and down."""


@renamed(radius="epsilon")
@dataclass(frozen=True, kw_only=True)
class Square(QueryAttack):
    """Random search: a window of the change is set anew and kept when the loss rises."""

    share: float = 0.8
    """Share of the elements that the first windows cover, the paper's p."""

    RULES: ClassVar[Rules] = {
        "share": Rule("a number above 0 and at most 1", lambda share: 0 < share <= 1)
    }

    def search(self, problem: Problem) -> Iterator[Found]:
        """Yield the search after each hundredth of its queries, and at its end."""
        random = Draws(problem)
        search = Search(problem, self.loss)
        allowed = torch.ones_like(problem.x, dtype=torch.bool)
        box = extents(as_grid(allowed if problem.mask is None else allowed & problem.mask))
        search.offer(problem.x)
        search.drop((box.height > 0).to(search.rows.device)[search.rows])
        for query in range(1, int(self.queries)):
            if len(search.rows) == 0:
                break
            rows = search.rows.cpu()
            place = Place(search.open, search.best, box.at(rows), self.ball)
            random.rows = rows
            if query == 1:
                start = place.stripes if self.norm is Linf else place.tiled
                search.offer(start(random), always=True)
            else:
                move = place.repainted if self.norm is Linf else place.shifted
                search.offer(move(self.share_after(query - 2), random))
            if query % max(1, int(self.queries) // 100) == 0:
                yield search.found()
        yield search.found()

    def share_after(self, windows: int) -> float:
        """Return the share of the elements that a window covers after so many others."""
        halvings = bisect_left(HALVINGS, int(windows / self.queries * 10_000))
        return float(self.share / 2**halvings)


class Draws:
    """Uniform numbers for the whole batch, cut to the `rows` that are open.

    An utterance's numbers do not depend on which others are still open.
    """

    def __init__(self, problem: Problem) -> None:
        self.generator = problem.random()
        self.count = len(problem.x)
        self.rows = torch.arange(self.count)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), (n, *shape), float64, on the CPU."""
        whole = torch.Size((self.count, *shape))
        return drawn(torch.rand, whole, self.generator, torch.float64)[self.rows]

    def signs(self, like: Tensor, *shape: int) -> Tensor:
        """Return -1 or 1, (n, *shape), type and device of `like`."""
        return torch.where(self.uniform(*shape) < 0.5, -1.0, 1.0).to(like)


class Place:
    """The open utterances as grids (n, c, H, W), and the next inputs to ask about."""

    def __init__(self, problem: Problem, best: Tensor, box: Rectangles, limit: Limit) -> None:
        self.shape = problem.x.shape
        self.bounds = problem.bounds
        self.x = as_grid(problem.x)
        self.best = as_grid(best)
        self.box = box
        self.ball = limit.around(problem.x)
        everywhere = torch.ones((), dtype=torch.bool, device=self.x.device)
        mask = everywhere if problem.mask is None else problem.mask
        self.allowed = as_grid(mask.expand(problem.x.shape))

    def stripes(self, random: Draws) -> Tensor:
        """Return the L-inf start: each column of each channel at one rim of the ball."""
        signs = random.signs(self.x, self.x.shape[1], 1, self.x.shape[3])
        return self._painted(self.allowed, signs).reshape(self.shape)

    def repainted(self, share: float, random: Draws) -> Tensor:
        """Return the best inputs with a window at one rim of the ball (algorithm 2)."""
        window = self.box.place(*self.box.sides(share), random.uniform(2))
        signs = random.signs(self.x, self.x.shape[1], 1, 1)
        inside = window.inside(self.x) & self.allowed
        painted = self._painted(inside, signs)
        same = (painted == self.best).flatten(1).all(dim=1)
        if bool(same.any()):
            signs = torch.where(per_utterance(same, signs), -signs, signs)
            painted = self._painted(inside, signs)
        return painted.reshape(self.shape)

    def tiled(self, random: Draws) -> Tensor:
        """Return the L2 start: a pattern of two pyramids in each tile."""
        change = torch.zeros_like(self.x)
        height, width = self.box.tiles(TILES)
        down, across = self.box.height // height, self.box.width // width
        for row in range(int(down.max())):
            for column in range(int(across.max())):
                tile = Rectangles(
                    top=self.box.top + (self.box.height - down * height) // 2 + row * height,
                    left=self.box.left + (self.box.width - across * width) // 2 + column * width,
                    height=height * (row < down),
                    width=width * (column < across),
                )
                change += self._pattern(tile, random)
        return self._at_the_rim(change)

    def shifted(self, share: float, random: Draws) -> Tensor:
        """Return inputs whose change moved from one window to another (algorithm 3)."""
        sides = self.box.sides(share, odd=True)
        window = self.box.place(*sides, random.uniform(2))
        here = window.inside(self.x)
        there = self.box.place(*sides, random.uniform(2)).inside(self.x)
        change = self.best - self.x
        spent = per_utterance(change.flatten(1).norm(dim=1), change)
        left_over = (radius_of(self.ball, self.x) ** 2 - spent**2).clamp(min=0.0) / self.x.shape[1]
        freed = _channel_norm(change * (here | there)) ** 2
        new = self._pattern(window, random) + _channel_unit(change * here)
        new = _channel_unit(new) * (left_over + freed).sqrt()
        return self._at_the_rim(torch.where(here, new, change * ~there))

    def _painted(self, inside: Tensor, signs: Tensor) -> Tensor:
        corner = self.x + self.ball.radius * signs
        corner = into_reach(self.x, corner, self.ball, self.bounds)
        return torch.where(inside, corner, self.best)

    def _pattern(self, window: Rectangles, random: Draws) -> Tensor:
        """Return a pattern of norm one in each channel of a window, of random sign and cut."""
        upright = random.uniform() < 0.5
        # A window one row high can only be cut through its width, and the other way round.
        upright = (upright & (window.height > 1)) | (window.width <= 1)
        signs = random.signs(self.x, self.x.shape[1], 1, 1)
        return two_pyramids(window, upright, self.x) * signs * self.allowed

    def _at_the_rim(self, change: Tensor) -> Tensor:
        """Return inputs whose change is scaled to the epsilon, then clamped to the bounds."""
        moved = self.x + self.ball.radius * self.ball.steepest(change)
        return into_reach(self.x, moved, self.ball, self.bounds).reshape(self.shape)


def _channel_norm(change: Tensor) -> Tensor:
    """Return the norm of each channel, (n, c, 1, 1)."""
    norm: Tensor = change.flatten(2).norm(dim=2)
    return norm[:, :, None, None]


def _channel_unit(change: Tensor) -> Tensor:
    """Return each channel divided by its norm; zero stays zero."""
    tiny = torch.finfo(change.dtype).tiny
    return normalize(change.flatten(2), dim=2, eps=tiny).view_as(change)


class Rectangles(NamedTuple):
    """One rectangle per utterance, in rows and columns; all int64 (n,), on the CPU."""

    top: Tensor
    """First row."""
    left: Tensor
    """First column."""
    height: Tensor
    """Number of rows."""
    width: Tensor
    """Number of columns."""

    def at(self, rows: Tensor) -> Rectangles:
        """Return the rectangles of some utterances."""
        return Rectangles(*(side[rows] for side in self))

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

    def place(self, height: Tensor, width: Tensor, uniform: Tensor) -> Rectangles:
        """Return windows of these sides, somewhere inside, drawn by `uniform` (n, 2) in [0, 1)."""
        return Rectangles(
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


def extents(allowed: Tensor) -> Rectangles:
    """Return the smallest windows around all true places of (n, c, H, W); empty where none is."""
    allowed = allowed.cpu().any(dim=1)
    top, height = _extent(allowed.any(dim=2))
    left, width = _extent(allowed.any(dim=1))
    return Rectangles(top, left, height, width)


def as_grid(x: Tensor) -> Tensor:
    """Return inputs as (n, c, H, W): a waveform (n, T) is one row of one channel.

    Raises:
        ShapeError: The inputs have more dimensions.
    """
    if x.ndim > 4:
        raise ShapeError("x", x.shape, "(B, T), (B, M, F) or (B, channels, M, F)")
    return x.reshape(len(x), *([1] * (4 - x.ndim)), *x.shape[1:])


def two_pyramids(windows: Rectangles, upright: Tensor, like: Tensor) -> Tensor:
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
    return normalize(pattern.flatten(1), dim=1, eps=1e-30).view_as(pattern)
