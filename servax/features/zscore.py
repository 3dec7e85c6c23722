"""The scale of Ren et al. 2020 ([18]): each Mel bin in its own standard deviations, on [0, 1].

[18] attacks log-Mel that is standardised per Mel bin over the training speakers, with ε = .02 … .1.
The paper's ε = .003 … .015 is that grid divided by 6.67, so a span of 6.67 standard deviations
becomes [0, 1] here and both grids are the same attack. Differs in: values beyond 3.335 standard
deviations are clamped, since everything in this library lives on [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import SettingError, ShapeError
from servax.kinds import check_kind, check_list, check_types

SMALLEST_SD_DB = 1e-6
"""A Mel bin that varies less than this never varied; what is left is rounding."""


@dataclass(frozen=True)
class ZScoreSettings:
    """The level and spread of each Mel bin, and how many of its spreads become [0, 1]."""

    mean: tuple[float, ...]
    """Mean level of each Mel bin, in dB."""
    sd: tuple[float, ...]
    """Standard deviation of each Mel bin, in dB; 0 for one that never varied."""
    width_sd: float = 6.67
    """Width of [0, 1] in standard deviations; the mean becomes .5."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("mean", "sd"):
            # Settings read back from JSON arrive as lists.
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if not self.mean or len(self.mean) != len(self.sd):
            raise SettingError(
                "mean, sd", (len(self.mean), len(self.sd)), "one number of each for each Mel bin"
            )
        if min(self.sd) < 0:
            raise SettingError("sd", min(self.sd), "standard deviations of at least 0 dB")
        if not (math.isfinite(self.width_sd) and self.width_sd > 0):
            raise SettingError("width_sd", self.width_sd, "a width above 0 standard deviations")


class ZScore(nn.Module):
    """Maps log-Mel in dB to [0, 1] and back, each Mel bin by its own mean and spread.

    A bin that never varied in training is measured in dB: its spread counts as 1 dB.

    Example:
        >>> ZScore(ZScoreSettings(mean=(-20.0, -30.0), sd=(12.0, 10.0))).epsilon_db(0.003)
        0.22011
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, settings: ZScoreSettings) -> None:
        super().__init__()
        check_kind("settings", settings, ZScoreSettings)
        self.settings = settings
        column = (len(settings.mean), 1)  # stands before the frames: (M, 1)
        spread = [sd if sd > 0 else 1.0 for sd in settings.sd]
        # Both follow from the settings, so they are not saved with the weights.
        self.register_buffer("mean", torch.tensor(settings.mean).reshape(column), persistent=False)
        self.register_buffer("sd", torch.tensor(spread).reshape(column), persistent=False)

    @classmethod
    def fit(cls, logmels: Iterable[NDArray[np.floating]], *, width_sd: float = 6.67) -> ZScore:
        """Return the scale of the frames in `logmels`, seen one spectrogram at a time.

        Args:
            logmels: Log-Mel spectrograms (..., M, F) in dB, of **training speakers only**.
            width_sd: Width of [0, 1] in standard deviations.

        Raises:
            SettingError: There are no spectrograms, or a level is not finite.
            ShapeError: They do not all have the same number of Mel bins.
        """
        check_list("logmels", logmels)
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for number, logmel in enumerate(logmels):
            frames = _frames(logmel, number, bins=len(mean) if count else None)
            # Chan, Golub & LeVeque 1983: merges two means and two sums of squared deviations.
            here, added = frames.mean(axis=0), len(frames)
            step, total = here - mean, count + added
            mean = mean + step * (added / total)
            squares = squares + np.square(frames - here).sum(axis=0)
            squares = squares + np.square(step) * (count * added / total)
            count = total
        if count == 0:
            raise SettingError("logmels", "empty", "at least one spectrogram to fit a scale on")
        sd = np.sqrt(squares / count)
        sd[sd < SMALLEST_SD_DB] = 0.0
        # Rounded, so that two machines that add up in another order agree on the settings.
        levels, spreads = (tuple(round(float(v), 6) for v in part) for part in (mean, sd))
        return cls(ZScoreSettings(levels, spreads, width_sd=width_sd))

    def epsilon_db(self, epsilon: float) -> float:
        """Return what a change of `epsilon` on [0, 1] is in dB, in a bin of average spread."""
        return round(epsilon * self.settings.width_sd * float(self.sd.double().mean()), 6)

    def forward(self, logmel_db: Tensor) -> Tensor:
        """Return (..., M, F) dB in standard deviations about the mean, mapped to [0, 1].

        Raises:
            ShapeError: `logmel_db` has another number of Mel bins.
        """
        mean, sd = self._for(logmel_db, "logmel_db")
        return (0.5 + (logmel_db - mean) / (sd * self.settings.width_sd)).clamp(0.0, 1.0)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Return dB for (..., M, F) values on [0, 1].

        Raises:
            ShapeError: `scaled` has another number of Mel bins.
        """
        mean, sd = self._for(scaled, "scaled")
        return (scaled - 0.5) * (sd * self.settings.width_sd) + mean

    def extra_repr(self) -> str:
        """Show the size when the module is printed."""
        return f"mels={len(self.settings.mean)}, width_sd={self.settings.width_sd:g}"

    def _for(self, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return mean and spread (M, 1) where `x` is, once its shape is right."""
        if x.ndim < 2 or x.shape[-2] != len(self.mean):
            raise ShapeError(name, x.shape, f"(..., {len(self.mean)}, F), one row a Mel bin")
        return self.mean.to(x.device), self.sd.to(x.device)


def _frames(logmel: NDArray[np.floating], number: int, *, bins: int | None) -> NDArray[np.float64]:
    """Return the frames (N, M) of one spectrogram (..., M, F)."""
    try:
        values = np.asarray(logmel, dtype=np.float64)
    except (TypeError, ValueError):
        raise SettingError(f"spectrogram {number}", logmel, "numbers (..., M, F) in dB") from None
    if values.ndim < 2 or values.size == 0 or bins not in (None, values.shape[-2]):
        expected = "(..., M, F)" if bins is None else f"(..., {bins}, F) as the first one"
        raise ShapeError(f"spectrogram {number}", values.shape, expected)
    if not np.isfinite(values).all():
        raise SettingError(f"spectrogram {number}", "not finite", "finite levels in dB")
    return np.moveaxis(values, -2, -1).reshape(-1, values.shape[-2])


def _finite(name: str, values: Iterable[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(name, values, "a finite number in dB for each Mel bin") from None
    if not all(math.isfinite(number) for number in numbers):
        raise SettingError(name, "not finite", "a finite number in dB for each Mel bin")
    return numbers
