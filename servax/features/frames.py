"""Fits a spectrogram to a fixed number of frames: middle crop, or fill.

The number 373 is `seq_len` of the official code of Ren et al. 2020 ([18]), which takes the middle
of longer utterances and **repeats** shorter ones. Zero fill is the ablation: it gives an attacker
pixels that never carried sound.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from servax.errors import SettingError
from servax.kinds import typed

Fill = Literal["repeat", "floor"]


@typed
def fit_frames(logmel: Tensor, frames: int, *, fill: Fill = "repeat") -> Tensor:
    """Return `logmel` with exactly `frames` frames.

    Args:
        logmel: (..., M, F) with F >= 1.
        frames: Number of frames wanted, at least 1.
        fill: For F < frames: ``repeat`` the utterance from its start, or fill the end with the
            lowest value of each spectrogram (``floor``).

    Returns:
        (..., M, frames): the middle of a longer input, the filled shorter one.

    Raises:
        SettingError: `frames` is below 1, the input is empty, or `fill` is unknown.
    """
    if frames < 1:
        raise SettingError("frames", frames, "a whole number of at least 1")
    if fill not in ("repeat", "floor"):
        raise SettingError.choice("fill", fill, ("repeat", "floor"))
    have = logmel.shape[-1]
    if have == 0:
        raise SettingError("number of frames", have, "at least 1 to crop or to fill from")
    # No branch by length: an exporter reads this too, and knows remainders by a tensor alone.
    place = torch.arange(frames, device=logmel.device) + larger(have - frames, 0) // 2
    fitted = logmel.index_select(-1, place % torch.full((1,), have, device=logmel.device))
    if fill == "repeat":
        return fitted
    return torch.where(place < have, fitted, logmel.amin(dim=(-2, -1), keepdim=True))


def larger(one: int, other: int) -> int:
    """Return the larger length, also where an exporter knows one only when the graph runs."""
    length: int = torch.sym_max(one, other)  # type: ignore[no-untyped-call]
    return length
