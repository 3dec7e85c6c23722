"""One utterance for Figure 1: original, attacked and purified log-Mel spectrogram.

Kept in an .npz file of plain arrays, read without pickle.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servax.errors import PathError, ServaxError, SettingError, ShapeError
from servax.files import write_whole

__all__ = ["Examples"]

_ARRAYS = ("original", "attacked", "purified")


@dataclass(frozen=True, eq=False)
class Examples:
    """Three spectrograms of one utterance, in dB.

    Raises:
        ShapeError: a spectrogram is not (M, F), or the three differ in shape.
        SettingError: values that are not finite, or `hop_seconds` is not positive.
    """

    original: NDArray[np.float32]
    """(M, F) log-Mel of the clean utterance, in dB."""
    attacked: NDArray[np.float32]
    """(M, F) the same after the attack, in dB."""
    purified: NDArray[np.float32]
    """(M, F) the attacked one after the purifier, in dB."""
    hop_seconds: float
    """Time from one frame to the next, in seconds."""
    title: str
    """Which utterance and attack this is, for the heading of the figure."""

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.asarray(getattr(self, name), dtype=np.float32)
            if array.ndim != 2 or array.size == 0:
                raise ShapeError(name, array.shape, "(M, F): Mel bins by frames")
            if array.shape != np.shape(self.original):
                raise ShapeError(name, array.shape, f"{np.shape(self.original)}, as the original")
            if not np.isfinite(array).all():
                raise SettingError(f"a value of {name}", "not finite", "dB values, all finite")
            object.__setattr__(self, name, array)
        if not self.hop_seconds > 0:
            raise SettingError("hop_seconds", self.hop_seconds, "a time in seconds above 0")

    def save(self, path: str | Path) -> None:
        """Write the example to an .npz file, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            original=self.original,
            attacked=self.attacked,
            purified=self.purified,
            hop_seconds=np.float64(self.hop_seconds),
            title=np.str_(self.title),
        )
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Examples:
        """Read an example that `save` has written; pickled content is never opened.

        Raises:
            ServaxError: no such file, not an .npz file of plain arrays, or a part is missing.
        """
        source = Path(path)
        if not source.is_file():
            raise PathError(source, "no such file, expected an example (.npz)")
        try:
            # numpy itself leaves the file open when it is no archive.
            with source.open("rb") as file, np.load(file, allow_pickle=False) as parts:
                return cls(
                    **{name: parts[name] for name in _ARRAYS},
                    hop_seconds=float(parts["hop_seconds"]),
                    title=str(parts["title"]),
                )
        except ServaxError as error:
            raise ServaxError(f"{source}: {error}") from error
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ServaxError(
                f"{source}: not an example; expected an .npz file with the plain arrays "
                "original, attacked, purified, hop_seconds and title."
            ) from error
