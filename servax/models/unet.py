"""A small U-Net that predicts a bounded change of its input (Ronneberger et al. 2015).

The spectrogram is folded into patches first (space to depth), so that the finest convolutions run
on a quarter of the positions. Each level halves Mel bins and frames and doubles the channels; group
norm, since an attacked and a clean input must not share statistics; the last convolution starts at
zero, so that an untrained network changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from servax.errors import SettingError, ShapeError
from servax.features import check_log_mels, check_type
from servax.kinds import check_number, typed
from servax.models.filling import cropped, filled
from servax.models.sizes import check_size
from servax.models.texture import BLOCK, TextureShuffle

GROUPS = 8
"""Of each group norm."""


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
