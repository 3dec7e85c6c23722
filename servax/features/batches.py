"""Batches of scaled log-Mel and labels, read from a feature cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.corpora import Corpus
from servax.errors import SettingError
from servax.features.cache import Features
from servax.features.scale import SCALES, Scale, ScaleKind, Scaling, ZScore


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
        if size < 1:
            raise SettingError("batch size", size, "a whole number of at least 1")
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
    if kind not in SCALES:
        raise SettingError.choice("scale", kind, SCALES)
    logmels = (features.logmel_db[row] for row in features.rows(corpus))
    return ZScore.fit(logmels) if kind == "z-score" else Scale.fit(logmels, window_db=window_db)
