"""A small U-Net that predicts a bounded change of its input (Ronneberger et al. 2015).

The spectrogram is folded into patches first (space to depth), so that the finest convolutions run
on a quarter of the positions. Each level halves Mel bins and frames and doubles the channels; group
norm, since an attacked and a clean input must not share statistics; the last convolution starts at
zero, so that an untrained network changes nothing. Before it the texture of the spectrogram may be
shuffled (`TextureShuffle`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad, pixel_shuffle, pixel_unshuffle

from servax.errors import SettingError, ShapeError
from servax.features import check_log_mels, check_type
from servax.kinds import check_number, check_size, typed

GROUPS = 8
"""Of each group norm."""
BLOCK = 8
"""Side of a block of texture, in Mel bins and frames."""
PERIOD = 128
"""Blocks after which the pattern of the texture repeats along the frames (1024 frames, 16 s)."""
ROWS = 8
"""Blocks after which it repeats along the Mel bins."""


@dataclass(frozen=True)
class UNetSettings:
    """What rebuilds a `UNet`."""

    width: int = 32
    """Channels of the finest level; a multiple of 8."""
    levels: int = 4
    """Levels; each halves Mel bins and frames once more."""
    patch: int = 2
    """Side of the patches that the input is folded into."""
    bound: float = 0.0
    """Largest change of an element, on the [0, 1] scale; 0 lifts the bound."""
    texture: int = 0
    """Shuffle the texture first, coefficients of order below this excepted; 0 leaves it alone."""
    passes: int = 1
    """How often the input goes through the network in evaluation mode, every second time with the
    blocks of the texture half a block further on."""
    residual: bool = True
    """Predict a change that is added to the input, instead of the spectrogram outright."""

    def __post_init__(self) -> None:
        check_size("width", self.width, largest=1024)
        check_size("levels", self.levels, largest=6)
        check_size("patch", self.patch, largest=16)
        check_size("passes", self.passes, largest=8)
        if self.width % GROUPS:
            raise SettingError("width", self.width, f"a multiple of {GROUPS}")
        check_size("texture", self.texture, smallest=0, largest=2 * BLOCK - 2)
        check_number("bound", self.bound)
        if not 0 <= self.bound <= 1:
            raise SettingError("bound", self.bound, "a number in [0, 1]; 0 lifts the bound")
        if not isinstance(self.residual, bool):
            raise SettingError("residual", self.residual, "true or false")


class UNet(nn.Module):
    """Maps spectrograms (B, 1, M, F) to spectrograms of the same shape; any M and F."""

    def __init__(
        self,
        width: int = 32,
        levels: int = 4,
        patch: int = 2,
        bound: float = 0.0,
        texture: int = 0,
        passes: int = 1,
        residual: bool = True,
    ) -> None:
        super().__init__()
        s = self.settings = UNetSettings(width, levels, patch, bound, texture, passes, residual)
        self.texture = TextureShuffle(s.texture) if s.texture else nn.Identity()
        channels = [s.width * 2**level for level in range(s.levels)]
        self.stem = nn.Conv2d(s.patch**2, s.width, 3, padding=1)
        self.down = nn.ModuleList(Block(c) for c in channels[:-1])
        self.halve = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in channels[:-1])
        self.middle = Block(channels[-1])
        self.widen = nn.ModuleList(nn.Conv2d(2 * c, c, 1) for c in reversed(channels[:-1]))
        self.up = nn.ModuleList(Block(c) for c in reversed(channels[:-1]))
        self.out = nn.Conv2d(s.width, s.patch**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    @typed
    def forward(self, x: Tensor, only: int | None = None) -> Tensor:
        """Return the purified spectrograms (B, 1, M, F), not clamped.

        Args:
            x: Spectrograms (B, 1, M, F) on [0, 1].
            only: Make this one pass, counted from 0; by default all in evaluation mode, and in
                training mode, where passes learn one by one, the first.
        """
        check_log_mels(x)
        if x.shape[0] < 1:  # `pixel_unshuffle` gives another shape then
            raise ShapeError("x", x.shape, "(B, 1, M, F) of at least one spectrogram")
        check_type("x", x.dtype, self.stem.weight)
        if only is not None:
            return self._shifted(x, only)
        for each in range(1 if self.training else self.settings.passes):
            x = self._shifted(x, each)
        return x

    @torch.no_grad()
    def before(self, x: Tensor, only: int) -> Tensor:
        """Return what pass number `only` meets of x (B, 1, M, F), without gradients."""
        for each in range(only):
            x = self(x, only=each)
        return x

    def _shifted(self, x: Tensor, each: int) -> Tensor:
        shift = BLOCK // 2 * (each % 2)
        moved = filled(x.clamp(0.0, 1.0) if each else x, 1, before=shift)
        return cropped(self._pass(moved), *x.shape[2:], before=shift)

    def _pass(self, x: Tensor) -> Tensor:
        s, x = self.settings, self.texture(x)
        whole = s.patch * 2 ** (s.levels - 1)
        mels, frames = x.shape[2:]
        padded = filled(x, whole)
        hidden = self.stem(pixel_unshuffle(padded, s.patch))
        passed = []
        for block, halve in zip(self.down, self.halve, strict=True):
            hidden = block(hidden)
            passed.append(hidden)
            hidden = halve(hidden)
        hidden = self.middle(hidden)
        for project, block in zip(self.widen, self.up, strict=True):
            hidden = interpolate(project(hidden), scale_factor=2.0)
            hidden = block(hidden + passed.pop())
        change = cropped(pixel_shuffle(self.out(hidden), s.patch), mels, frames)
        if s.bound:
            change = s.bound * torch.tanh(change / s.bound)
        return x + change if s.residual else change


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and the change of its two convolutions (He et al. 2016, figure 4e)."""
        silu = nn.functional.silu
        hidden = self.conv1(silu(self.norm1(x)))
        changed: Tensor = x + self.conv2(silu(self.norm2(hidden)))
        return changed


class TextureShuffle(nn.Module):
    """Keeps the shape of spectrograms (B, 1, M, F), any M and F, and shuffles their texture.

    A spectrogram is cut into blocks of 8 Mel bins by 8 frames, each block is taken apart by the
    cosine transform, coefficients of low order stay, and those of higher order get a sign out of a
    fixed random pattern. Energy and place of every coefficient stay, so what comes out still looks
    like speech to a recogniser, unlike after a blur; but an attack's fine structure, which had to
    fit the recogniser's gradient sign by sign, is scattered. The map is linear and orthogonal: an
    attacker who knows the pattern sees through it.

    Signs of transform coefficients flipped by a key are those of Taran et al. (CVPR 2019,
    "Defending against adversarial attacks by randomized diversification") and of key-based
    diversified aggregation, KDA (Taran et al. 2020, EURASIP J. Inf. Secur.); AprilPyone & Kiya
    (ICIP 2020) move pixels in blocks by one. Differs in: their keys are secret and the classifier
    is trained behind them; this pattern is public, of seed 0 in every purifier, and no key.

    Args:
        keep: Coefficients of order u + v below it keep their sign, from 1 to 14.
        seed: Of the pattern, which is saved with the weights.
    """

    signs: Tensor

    def __init__(self, keep: int, seed: int = 0) -> None:
        super().__init__()
        check_size("keep", keep, largest=2 * BLOCK - 2)
        self.keep = keep
        order = torch.arange(BLOCK)
        low = (order[:, None] + order[None]).flatten() < keep  # (64,)
        draws = torch.Generator().manual_seed(seed)
        shape = (BLOCK * BLOCK, ROWS, PERIOD)
        signs = 2 * torch.randint(0, 2, shape, generator=draws, device="cpu") - 1
        signs[low] = 1
        self.register_buffer("signs", signs.to(torch.int8))
        one = cosines(BLOCK)
        basis = torch.einsum("um,vf->uvmf", one, one).reshape(BLOCK * BLOCK, -1)
        # No buffer: loading makes those that are not saved without values.
        self._basis = basis

    def forward(self, x: Tensor) -> Tensor:
        """Return the spectrograms (B, 1, M, F) with shuffled texture, not clamped."""
        mels, frames = x.shape[2:]
        basis = self._basis.to(x)  # a function per row
        there = basis.reshape(-1, 1, BLOCK, BLOCK)
        coefficients = conv2d(filled(x, BLOCK), there, stride=BLOCK)  # (B, 64, M / 8, F / 8)
        signs = self._signs(*coefficients.shape[2:])
        # Blocks do not overlap: their inverse is a product, not the slower conv_transpose2d.
        back = basis.T[..., None, None]
        shuffled = pixel_shuffle(conv2d(coefficients * signs.to(x), back), BLOCK)
        return cropped(shuffled, mels, frames)

    def _signs(self, rows: int, columns: int) -> Tensor:
        """Return the pattern (64, rows, columns), repeated where it is too short."""
        signs = self.signs
        exporting = torch.compiler.is_exporting()  # rows and columns are free numbers then
        if not exporting and rows <= ROWS and columns <= PERIOD:
            return signs[:, :rows, :columns]
        for axis, (length, period) in enumerate(((rows, ROWS), (columns, PERIOD)), start=1):
            numbers = torch.arange(length, device=signs.device) % period
            signs = signs.index_select(axis, numbers)
        return signs


def cosines(size: int) -> Tensor:
    """Return the orthonormal cosine transform (size, size), one function per row (DCT-II)."""
    numbers = torch.arange(size, device="cpu")  # also where a network is built without values
    order, place = numbers[:, None], numbers[None]
    table = torch.cos(math.pi * (2 * place + 1) * order / (2 * size)) * math.sqrt(2 / size)
    table[0] /= math.sqrt(2)
    return table


def filled(x: Tensor, whole: int, *, before: int = 0) -> Tensor:
    """Return x (B, 1, M, F) grown to multiples of `whole` by the last row and frame.

    Two ways to the same values, here and in `cropped`. Where torch.export traces a network for any
    number of frames, rows and frames are picked by number: the sizes that padding and slicing leave
    grow with every call until no exporter can read them. Elsewhere it is padding and slicing, whose
    gradients add up in one order.

    Args:
        x: The spectrograms.
        whole: What sizes are multiples of afterwards; 1 leaves their ends alone.
        before: How often the first row and the first frame are repeated before that.
    """
    mels, frames = x.shape[2:]
    if torch.compiler.is_exporting():
        for axis, length in ((2, mels), (3, frames)):
            grown = (length + before + whole - 1) // whole * whole
            numbers = torch.arange(grown, device=x.device) - before
            x = x.index_select(axis, numbers.clamp(min=0, max=length - 1))
        return x
    below, behind = (-(length + before) % whole for length in (mels, frames))
    return pad(x, (before, behind, before, below), mode="replicate")


def cropped(x: Tensor, mels: int, frames: int, *, before: int = 0) -> Tensor:
    """Return (B, 1, mels, frames) of x (B, 1, M, F), from row and frame number `before` on."""
    if torch.compiler.is_exporting():
        for axis, length in ((2, mels), (3, frames)):
            x = x.index_select(axis, torch.arange(length, device=x.device) + before)
        return x
    return x[..., before : before + mels, before : before + frames]
