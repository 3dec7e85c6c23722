"""From log-Mel in dB to [0, 1] and back, affinely, so that ε means the same everywhere in a fold.

Both scales are fitted on **training speakers only** and clamp what lies beyond [0, 1], since
everything in this library lives there.

- `Scale`: one window for all Mel bins, below the highest level of the training speakers. With the
  default 80 dB, ε = .003 is .24 dB and δ = .06 is 4.8 dB. The paper does not print its scale.
- `ZScore`: each Mel bin in its own standard deviations, as [18] (Ren et al. 2020), which attacks
  with ε = .02 … .1. The paper's ε = .003 … .015 is that grid divided by 6.67, so a span of 6.67
  standard deviations becomes [0, 1] here and both grids are the same attack.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import SettingError, ShapeError
from servax.features.tensors import check_tensor
from servax.kinds import Rule, Rules, check_kind, check_list, check_types
from servax.runtime.samples import as_samples

ScaleKind = Literal["window", "z-score"]
SCALES = ("window", "z-score")
"""`window`: one dB window for all Mel bins; `z-score`: each Mel bin by its own spread ([18])."""
SMALLEST_SD_DB = 1e-6
"""A Mel bin that varies less than this never varied; what is left is rounding."""
Logmels = Iterable[NDArray[np.floating]]


@dataclass(frozen=True)
class ScaleSettings:
    """The dB window of a `Scale`."""

    top_db: float
    """The level that becomes 1, in dB."""
    window_db: float = 80.0
    """Width of the window in dB; ``top_db - window_db`` becomes 0."""

    RULES: ClassVar[Rules] = {
        "top_db": Rule("a finite level in dB", math.isfinite),
        "window_db": Rule("a width above 0 dB", lambda width: 0 < width < math.inf),
    }

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class ZScoreSettings:
    """The level and spread of each Mel bin, and how many of its spreads become [0, 1]."""

    mean: tuple[float, ...]
    """Mean level of each Mel bin, in dB."""
    sd: tuple[float, ...]
    """Standard deviation of each Mel bin, in dB; 0 for one that never varied."""
    width_sd: float = 6.67
    """Width of [0, 1] in standard deviations; the mean becomes .5."""

    RULES: ClassVar[Rules] = {
        "width_sd": Rule("a width above 0 standard deviations", lambda width: 0 < width < math.inf),
    }

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


class Scaling(nn.Module, ABC):
    """An affine map from dB to [0, 1] and back; a kind says where a level comes to lie."""

    settings: ScaleSettings | ZScoreSettings

    @property
    @abstractmethod
    def range_db(self) -> float:
        """What the whole of [0, 1] is in dB, on average over the Mel bins."""

    @abstractmethod
    def _place(self, x: Tensor, name: str) -> tuple[Any, Any, float]:
        """Return a level in dB, what [0, 1] spans from it, and what the level becomes, for x."""

    def epsilon_db(self, epsilon: float) -> float:
        """Return what a change of `epsilon` on [0, 1] is in dB, in an average Mel bin."""
        return round(epsilon * self.range_db, 6)

    def forward(self, logmel_db: Tensor) -> Tensor:
        """Return `logmel_db` (..., M, F) in dB mapped to [0, 1] and clamped.

        Raises:
            SettingError: It is no floating-point tensor.
            ShapeError: It has another number of Mel bins than the scale.
        """
        level, span, becomes = self._place(logmel_db, "logmel_db")
        placed: Tensor = (logmel_db - level).div_(span).add_(becomes)
        return placed.clamp(0.0, 1.0)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Return dB for (..., M, F) values on [0, 1].

        Raises:
            SettingError: They are no floating-point tensor.
            ShapeError: `scaled` has another number of Mel bins than the scale.
        """
        level, span, becomes = self._place(scaled, "scaled")
        levels: Tensor = (scaled - becomes) * span + level
        return levels


class Scale(Scaling):
    """One dB window for all Mel bins; log-Mels of any shape.

    Example:
        >>> Scale(ScaleSettings(top_db=20.0)).epsilon_db(0.003)
        0.24
    """

    settings: ScaleSettings

    def __init__(self, settings: ScaleSettings) -> None:
        super().__init__()
        check_kind("settings", settings, ScaleSettings)
        self.settings = settings

    @classmethod
    def fit(cls, logmels: Logmels, *, window_db: float = 80.0) -> Scale:
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
            raise _nothing_to_fit()
        return cls(ScaleSettings(top_db=top, window_db=window_db))

    @property
    def range_db(self) -> float:
        """Width of the window in dB."""
        return self.settings.window_db

    def _place(self, x: Tensor, name: str) -> tuple[float, float, float]:
        check_tensor(name, x)
        return self.settings.top_db, self.settings.window_db, 1.0

    def extra_repr(self) -> str:
        """Show the window when the module is printed."""
        return f"top_db={self.settings.top_db:.2f}, window_db={self.settings.window_db:g}"


class ZScore(Scaling):
    """Each Mel bin by its own mean and spread.

    A bin that never varied in training is measured in dB: its spread counts as 1 dB.

    Example:
        >>> ZScore(ZScoreSettings(mean=(-20.0, -30.0), sd=(12.0, 10.0))).epsilon_db(0.003)
        0.22011
    """

    settings: ZScoreSettings
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
    def fit(cls, logmels: Logmels, *, width_sd: float = 6.67) -> ZScore:
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
            raise _nothing_to_fit()
        sd = np.sqrt(squares / count)
        sd[sd < SMALLEST_SD_DB] = 0.0
        # Rounded, so that two machines that add up in another order agree on the settings.
        levels, spreads = (tuple(round(float(v), 6) for v in part) for part in (mean, sd))
        return cls(ZScoreSettings(levels, spreads, width_sd=width_sd))

    @property
    def range_db(self) -> float:
        """Width in dB of a bin of average spread."""
        return self.settings.width_sd * float(self.sd.double().mean())

    def _place(self, x: Tensor, name: str) -> tuple[Tensor, Tensor, float]:
        check_tensor(name, x)
        if x.ndim < 2 or x.shape[-2] != len(self.mean):
            raise ShapeError(name, x.shape, f"(..., {len(self.mean)}, F), one row a Mel bin")
        return self.mean.to(x.device), self.sd.to(x.device) * self.settings.width_sd, 0.5

    def extra_repr(self) -> str:
        """Show the size when the module is printed."""
        return f"mels={len(self.settings.mean)}, width_sd={self.settings.width_sd:g}"


def make_scale(settings: Mapping[str, Any], *, mels: int) -> Scaling:
    """Return the scale whose settings were saved as ``asdict(scale.settings)``.

    Args:
        settings: Of a `Scale` or of a `ZScore`; their keys tell them apart.
        mels: Mel bins of the front-end that belongs to it.

    Raises:
        SettingError: A setting is outside its rule, or the scale is for other Mel bins.
        TypeError: These are the settings of no scale.
    """
    if "mean" not in settings:
        return Scale(ScaleSettings(**settings))
    found = ZScoreSettings(**settings)
    if len(found.mean) != mels:
        raise SettingError(
            "mean, sd", f"{len(found.mean)} Mel bins", f"the {mels} of the front-end"
        )
    return ZScore(found)


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


def _nothing_to_fit() -> SettingError:
    return SettingError("logmels", "empty", "at least one spectrogram to fit a scale on")


def _finite(name: str, values: Iterable[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(name, values, "a finite number in dB for each Mel bin") from None
    if not all(map(math.isfinite, numbers)):
        raise SettingError(name, "not finite", "a finite number in dB for each Mel bin")
    return numbers
