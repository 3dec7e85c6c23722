"""What an exported purifier says about itself in the metadata of its ONNX file.

The same settings as `servax.features` has them, read without it. Keys: ``role``, ``front_end`` and
``scale``, all that comes between a waveform and the network, as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from servax.errors import SettingError

PURIFIER, DEFENDED = "purifier", "defended recogniser"
"""Roles of an exported file."""
LARGEST_SIZE = 1 << 16
"""Of a window or a number of Mel bins or frames: keeps a hostile file from asking for memory."""
T = TypeVar("T")


@dataclass(frozen=True)
class LogMelSettings:
    """As `servax.features.LogMelSettings`."""

    sample_rate: int
    """In Hz."""
    window_samples: int
    """Length of a frame and of its Fourier transform."""
    hop_samples: int
    """Distance between frames."""
    mels: int
    """Number of Mel bins."""
    f_min: float
    """Lower edge of the first Mel filter, in Hz."""
    f_max: float
    """Upper edge of the last Mel filter, in Hz."""
    window: Literal["hann", "hamming"]
    """Window function (periodic)."""
    spectrum: Literal["power", "magnitude"]
    """What the Mel filters sum up."""
    mel_scale: Literal["htk", "slaney"]
    """Of the filters."""
    logarithm: Literal["db", "natural"]
    """`db`: 10 log10(max(m, floor)); `natural`: ln(m + floor)."""
    floor: float
    """Smallest value under the logarithm."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "window_samples", "hop_samples", "mels"):
            _whole(name, getattr(self, name))
        for name in ("f_min", "f_max", "floor"):
            _number(name, getattr(self, name))
        if self.hop_samples > self.window_samples:
            raise SettingError("hop_samples", self.hop_samples, "at most window_samples")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise SettingError("f_min, f_max", (self.f_min, self.f_max), "0 <= f_min < f_max")
        if self.floor <= 0:
            raise SettingError("floor", self.floor, "a number above 0")
        for name, allowed in (
            ("window", ("hann", "hamming")),
            ("spectrum", ("power", "magnitude")),
            ("mel_scale", ("htk", "slaney")),
            ("logarithm", ("db", "natural")),
        ):
            if getattr(self, name) not in allowed:
                raise SettingError.choice(name, getattr(self, name), allowed)

    @property
    def db_per_unit(self) -> np.float32:
        """How many dB of power one unit of the log-Mel is (1 for `db`)."""
        if self.logarithm == "db":
            return np.float32(1.0)
        return np.float32((10.0 if self.spectrum == "power" else 20.0) / math.log(10.0))


@dataclass(frozen=True)
class FrontEndSettings:
    """As `servax.features.FrontEndSettings`."""

    logmel: LogMelSettings
    """The spectrogram."""
    level_dbfs: float | None
    """RMS level a sound is brought to, in dB below full scale; none leaves it alone."""
    silence_rms: float
    """What is quieter is raised only as much as a sound at that level would be."""
    frames: int
    """Frames the purifier was trained on."""

    def __post_init__(self) -> None:
        _whole("frames", self.frames)
        _number("silence_rms", self.silence_rms)
        if self.level_dbfs is not None:
            _number("level_dbfs", self.level_dbfs)


@dataclass(frozen=True)
class Scale:
    """From dB to [0, 1] and back: ``low`` becomes 0, ``low + width`` becomes 1."""

    low: NDArray[np.float32]
    """In dB, (1, 1) for all Mel bins alike, or (M, 1)."""
    width: NDArray[np.float32]
    """In dB, of the same shape."""

    def __call__(self, logmel_db: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (..., M, F) dB clamped and mapped to [0, 1]."""
        scaled = np.clip((logmel_db - self.low) / self.width, 0.0, 1.0)
        return np.asarray(scaled, dtype=np.float32)

    def inverse(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return dB for (..., M, F) values on [0, 1]."""
        return np.asarray(scaled * self.width + self.low, dtype=np.float32)


def read_front_end(said: Mapping[str, str]) -> FrontEndSettings:
    """Return the front-end that metadata state.

    Raises:
        SettingError: They state none, or one outside its rules.
    """
    given = _object(said, "front_end")
    logmel = _built(LogMelSettings, given.get("logmel"), "front_end.logmel")
    return _built(FrontEndSettings, {**given, "logmel": logmel}, "front_end")


def read_scale(said: Mapping[str, str], mels: int) -> Scale:
    """Return the scale that metadata state: one dB window, or a mean and spread of each Mel bin.

    Raises:
        SettingError: They state none, or one outside its rules.
    """
    given = _object(said, "scale")
    if "mean" not in given:
        top, window = (_number(n, given.get(n)) for n in ("top_db", "window_db"))
        return _scale([top - window], [window])
    span = _number("width_sd", given.get("width_sd"))
    mean, sd = (_numbers(name, given.get(name), mels) for name in ("mean", "sd"))
    # A bin that never varied is measured in dB: its spread counts as 1 dB.
    width = [span * (each if each > 0 else 1.0) for each in sd]
    return _scale([m - w / 2 for m, w in zip(mean, width, strict=True)], width)


def _scale(low: list[float], width: list[float]) -> Scale:
    if min(width) <= 0:
        raise SettingError("scale", min(width), "a width above 0 dB")
    column = (len(low), 1)
    return Scale(
        np.array(low, dtype=np.float32).reshape(column),
        np.array(width, dtype=np.float32).reshape(column),
    )


def _object(said: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        found = json.loads(said[name])
    except (KeyError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SettingError(name, said.get(name, "missing"), "a JSON object, as servax export")
    return found


def _built(kind: type[T], given: Any, name: str) -> T:
    wanted = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(given, dict) or not set(wanted) <= given.keys():
        raise SettingError(name, given, f"a JSON object with {', '.join(wanted)}")
    return kind(**{key: given[key] for key in wanted})


def _whole(name: str, value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    largest = 768_000 if name == "sample_rate" else LARGEST_SIZE
    if not (whole and 1 <= value <= largest):  # type: ignore[operator]
        raise SettingError(name, value, f"a whole number in [1, {largest}]")


def _number(name: str, value: object) -> float:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not (real and math.isfinite(value)):  # type: ignore[arg-type]
        raise SettingError(name, value, "a finite number")
    return float(value)  # type: ignore[arg-type]


def _numbers(name: str, value: object, count: int) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        raise SettingError(name, value, f"a list of {count} numbers, one for each Mel bin")
    return [_number(name, each) for each in value]
