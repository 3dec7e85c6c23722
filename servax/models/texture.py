"""Keeps the shape of a spectrogram and shuffles its texture.

The spectrogram is cut into blocks of 8 Mel bins by 8 frames, each block is taken apart by the
cosine transform, coefficients of low order stay, and those of higher order get a sign out of a
fixed random pattern. Energy and place of every coefficient stay, so what comes out still looks like
speech to a recogniser, unlike after a blur; but an attack's fine structure, which had to fit the
recogniser's gradient sign by sign, is scattered. The map is linear and orthogonal: an attacker who
knows the pattern sees through it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle

from servax.models.filling import cropped, filled
from servax.models.sizes import check_size

BLOCK = 8
"""Side of a block, in Mel bins and frames."""
PERIOD = 128
"""Blocks after which the pattern repeats along the frames (1024 frames, 16 s)."""
ROWS = 8
"""Blocks after which the pattern repeats along the Mel bins."""


class TextureShuffle(nn.Module):
    """Maps spectrograms (B, 1, M, F) to spectrograms of the same shape; any M and F.

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
