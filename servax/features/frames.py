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
    if have >= frames:
        start = (have - frames) // 2
        return logmel[..., start : start + frames]
    if fill == "repeat":
        copies = -(-frames // have)
        return torch.cat([logmel] * copies, dim=-1)[..., :frames]
    lowest = logmel.amin(dim=(-2, -1), keepdim=True)
    tail = lowest.expand(*logmel.shape[:-1], frames - have)
    return torch.cat([logmel, tail], dim=-1)
