"""Fills spectrograms up to whole blocks by their last row and frame, and takes the rest away again.

Two ways to the same values. Where torch.export traces a network for any number of frames, rows and
frames are picked by number: the sizes that padding and slicing leave grow with every call until no
exporter can read them. Elsewhere it is padding and slicing, whose gradients add up in one order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def filled(x: Tensor, whole: int, *, before: int = 0) -> Tensor:
    """Return x (B, 1, M, F) with M and F grown to multiples of `whole`.

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
