"""Batches of scaled log-Mel and labels, read from a feature cache; and what a training masks there.

SpecAugment masks time and Mel bins of log-Mel (Park et al. 2019, without time warping). Masks are
drawn apart from being applied, so that a test can fix them and a run can repeat them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.corpora import Corpus
from servax.features.cache import Features
from servax.features.scale import SCALES, Scale, ScaleKind, Scaling, ZScore
from servax.kinds import COUNT, NUMBER, Choice, Rules, check_types


@dataclass(frozen=True)
class Batch:
    """A few utterances, ready for a classifier."""

    x: Tensor
    """Log-Mel on [0, 1], (B, 1, M, F)."""
    y: Tensor
    """Class indices, (B,) int64."""
    positions: NDArray[np.int64]
    """Which utterances of the dataset these are, (B,)."""


class Dataset:
    """The utterances of one part of a fold, as a classifier sees them."""

    def __init__(self, corpus: Corpus, features: Features, scale: Scaling) -> None:
        self.corpus = corpus
        self.scale = scale
        self.labels = torch.from_numpy(np.asarray(corpus.label_index, dtype=np.int64).copy())
        self._logmel_db = features.logmel_db
        self._rows = features.rows(corpus)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def classes(self) -> int:
        """Number of classes of the label scheme."""
        return len(self.corpus.labels)

    def batch(self, positions: NDArray[np.int64], device: torch.device | None = None) -> Batch:
        """Return the utterances at `positions` (B,) as a batch on `device` (default: CPU)."""
        logmel_db = np.ascontiguousarray(self._logmel_db[self._rows[positions]])  # (B, M, F)
        x: Tensor = self.scale(torch.from_numpy(logmel_db).unsqueeze(1))
        y = self.labels[torch.from_numpy(positions)]
        if device is not None:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        return Batch(x, y, positions)

    def batches(self, size: int, device: torch.device | None = None) -> Iterator[Batch]:
        """Yield all utterances once, in order, `size` at a time."""
        COUNT.check("batch size", size)
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))), device)


def fit_scale(
    corpus: Corpus,
    features: Features,
    *,
    window_db: float = 80.0,
    kind: ScaleKind = "window",
) -> Scaling:
    """Return the scale of the **training** part of a fold, one utterance at a time.

    Args:
        corpus: The training part.
        features: Of the whole corpus.
        window_db: Width of the dB window; `z-score` has none.
        kind: One of `SCALES`.

    Raises:
        SettingError: `kind` is unknown, or a level is not finite.
    """
    Choice(SCALES).check("scale", kind)
    logmels = (features.logmel_db[row] for row in features.rows(corpus))
    return ZScore.fit(logmels) if kind == "z-score" else Scale.fit(logmels, window_db=window_db)


@dataclass(frozen=True)
class SpecAugment:
    """How many masks are drawn for each utterance and how wide they may be."""

    time_masks: int = 2
    """Masks over frames."""
    time_width: int = 40
    """Widest time mask, in frames."""
    mel_masks: int = 2
    """Masks over Mel bins."""
    mel_width: int = 8
    """Widest Mel mask, in bins."""

    RULES: ClassVar[Rules] = dict.fromkeys(
        ("time_masks", "time_width", "mel_masks", "mel_width"), NUMBER
    )

    def __post_init__(self) -> None:
        check_types(self)

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return a boolean mask (B, 1, M, F), true where sound is to be removed."""
        batch, _, mels, frames = shape
        time = _stripes(batch, frames, self.time_masks, self.time_width, generator)
        mel = _stripes(batch, mels, self.mel_masks, self.mel_width, generator)
        return (time[:, None, None, :] | mel[:, None, :, None]).expand(shape)

    def apply(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return x (B, 1, M, F) with each utterance's mean where `mask` is true."""
        return torch.where(mask.to(x.device), x.mean(dim=(1, 2, 3), keepdim=True), x)


def _stripes(batch: int, length: int, count: int, width: int, generator: torch.Generator) -> Tensor:
    """Return (B, length), true inside `count` random stripes of at most `width`."""
    widths = torch.randint(0, min(width, length) + 1, (batch, count), generator=generator)
    room = (length - widths + 1).float()
    starts = (torch.rand((batch, count), generator=generator) * room).long()
    position = torch.arange(length)
    inside = (position >= starts[..., None]) & (position < (starts + widths)[..., None])
    return inside.any(dim=1)


def augmented(
    x: Tensor, draws: torch.Generator, *, shift: bool, augment: SpecAugment | None
) -> Tensor:
    """Return x (B, 1, M, F) rolled by a random number of frames, then masked, if asked for."""
    if shift:
        shifts = torch.randint(0, x.shape[3], (len(x),), generator=draws)
        x = roll_frames(x, shifts.to(x.device))
    if augment is not None:
        x = augment.apply(x, augment.draw(x.shape, draws))
    return x


def roll_frames(x: Tensor, shifts: Tensor) -> Tensor:
    """Return x (B, 1, M, F) with utterance b rolled right by ``shifts[b]`` frames."""
    frames = x.shape[3]
    index = (torch.arange(frames, device=x.device)[None] - shifts[:, None]) % frames  # (B, F)
    return torch.gather(x, 3, index[:, None, None, :].expand_as(x))
