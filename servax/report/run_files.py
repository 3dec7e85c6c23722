"""The files of a run that its report is made of: records, an example, and training logs."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servax.errors import PathError, ServaxError, SettingError, ShapeError
from servax.evaluation import records
from servax.evaluation.records import Records
from servax.files import write_whole

RECORDS = "records"


def read_run(path: str | Path) -> Records:
    """Return all records of a run or audit with their common provenance.

    Args:
        path: Its folder, which holds ``records/*.parquet``, or one Parquet file.

    Raises:
        ServaxError: There are no records, or they do not belong together.
    """
    source = Path(path)
    if _is_file(source):
        return records.read(source)
    files = sorted((source / RECORDS).glob("*.parquet"))
    if not files:
        raise PathError(
            source,
            f"holds no {RECORDS}/*.parquet; expected the folder of a finished run, or one "
            "Parquet file of records",
        )
    return records.concat([records.read(file) for file in files])


def home_of(path: str | Path) -> Path:
    """Return the folder in which a report on `path` belongs: the run, or the file's folder."""
    source = Path(path)
    if not _is_file(source):
        return source
    return source.parent.parent if source.parent.name == RECORDS else source.parent


def _is_file(source: Path) -> bool:
    return source.suffix == ".parquet" or source.is_file()


_ARRAYS = ("original", "attacked", "purified")


@dataclass(frozen=True, eq=False)
class Examples:
    """Three spectrograms of one utterance, in dB, kept in an .npz file of plain arrays.

    Raises:
        ShapeError: A spectrogram is not (M, F), or the three differ in shape.
        SettingError: Values that are not finite, or `hop_seconds` is not positive.
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
        parts = vars(self) | {"hop_seconds": np.float64(self.hop_seconds)}
        np.savez_compressed(buffer, **parts)
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Examples:
        """Read an example that `save` has written; pickled content is never opened.

        Raises:
            ServaxError: No such file, not an .npz file of plain arrays, or a part is missing.
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


Curves = Mapping[str, Mapping[str, Mapping[float, float]]]
"""term (``loss``) → part (``train``) → epoch → value."""
_LINES = 'expected lines such as {"epoch": 1, "train/loss": 0.4}'


def training_curves_of(path: str | Path) -> Curves:
    """Return the numeric terms of a training log, by term and part.

    A log is JSON lines, one flat object of terms each: ``{"epoch": 3, "train/loss": 0.41,
    "validation/uar": 0.61}``. Terms that differ only in the part before the last ``/`` belong into
    one picture. A run that was killed and resumed writes an epoch twice: the later line counts.
    Its last line may be cut short: it is left out, since nothing else of it was used either.

    Raises:
        ServaxError: No such file, a line that is not a JSON object with an ``epoch``, or no term.
    """
    source = Path(path)
    if not source.is_file():
        raise PathError(source, "no such file, expected a training log (.jsonl)")
    found: dict[str, dict[str, dict[float, float]]] = {}
    lines = source.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            terms = json.loads(line)
        except ValueError:
            if number == len(lines):
                continue
            terms = None
        if not isinstance(terms, dict) or not _is_number(terms.get("epoch")):
            told = f"line {number} is not a JSON object with an epoch"
            raise ServaxError(f"{source}: {told}, {_LINES}.")
        for name, value in terms.items():
            part, _, term = name.rpartition("/")
            if name != "epoch" and _is_number(value):
                found.setdefault(term, {}).setdefault(part, {})[float(terms["epoch"])] = value
    if not found:
        raise ServaxError(f"{source}: no numeric term in it, {_LINES}.")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
