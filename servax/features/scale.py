"""One affine map from dB to [0, 1] for a whole fold, so that ε means the same everywhere.

Power in dB is clamped to a window below a reference taken from the training speakers.
With the default window of 80 dB, ε = .003 is .24 dB and δ = .06 is 4.8 dB. The paper
does not print its scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features.tensors import check_tensor
from servax.kinds import check_kind, check_list, check_types
from servax.runtime.samples import as_samples


@dataclass(frozen=True)
class ScaleSettings:
    """The dB window of a `Scale`."""

    top_db: float
    """The level that becomes 1, in dB."""
    window_db: float = 80.0
    """Width of the window in dB; ``top_db - window_db`` becomes 0."""

    def __post_init__(self) -> None:
        check_types(self)
        if not math.isfinite(self.top_db):
            raise SettingError("top_db", self.top_db, "a finite level in dB")
        if not (math.isfinite(self.window_db) and self.window_db > 0):
            raise SettingError("window_db", self.window_db, "a width above 0 dB")


class Scale(nn.Module):
    """Maps log-Mel in dB to [0, 1] and back.

    Example:
        >>> Scale(ScaleSettings(top_db=20.0)).epsilon_db(0.003)
        0.24
    """

    def __init__(self, settings: ScaleSettings) -> None:
        super().__init__()
        check_kind("settings", settings, ScaleSettings)
        self.settings = settings

    @classmethod
    def fit(cls, logmels: Iterable[NDArray[np.floating]], *, window_db: float = 80.0) -> Scale:
        """Return the scale whose top is the highest level in `logmels`.

        Args:
            logmels: Log-Mel spectrograms in dB, any shape, of **training speakers only**.
            window_db: Width of the window in dB.

        Raises:
            SettingError: There are no spectrograms, or a level is not finite.
        """
        check_list("logmels", logmels)
        top = -math.inf
        for number, logmel in enumerate(logmels):
            levels = as_samples(f"spectrogram {number}", logmel)
            highest = float(np.max(levels, initial=-math.inf))  # NaN if any is
            if not math.isfinite(highest):
                raise SettingError(
                    f"the highest level of spectrogram {number}", highest, "a finite level in dB"
                )
            top = max(top, highest)
        if top == -math.inf:
            raise SettingError("logmels", "empty", "at least one spectrogram to fit a scale on")
        return cls(ScaleSettings(top_db=top, window_db=window_db))

    def epsilon_db(self, epsilon: float) -> float:
        """Return what a change of `epsilon` on [0, 1] is in dB."""
        return round(epsilon * self.settings.window_db, 9)

    def forward(self, logmel_db: Tensor) -> Tensor:
        """Return `logmel_db` (any shape, dB) clamped to the window and mapped to [0, 1]."""
        check_tensor("logmel_db", logmel_db)
        s = self.settings
        return (logmel_db - s.top_db).div_(s.window_db).add_(1.0).clamp(0.0, 1.0)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Return dB for values on [0, 1], any shape."""
        check_tensor("scaled", scaled)
        return (scaled - 1.0) * self.settings.window_db + self.settings.top_db

    def extra_repr(self) -> str:
        """Show the window when the module is printed."""
        return f"top_db={self.settings.top_db:.2f}, window_db={self.settings.window_db:g}"


def scale_array(logmel_db: NDArray[np.float32], scale: nn.Module) -> Tensor:
    """Return (B, M, F) dB from a cache as the (B, 1, M, F) input of a classifier."""
    return scale(torch.from_numpy(np.ascontiguousarray(logmel_db)).unsqueeze(1))  # type: ignore[no-any-return]
