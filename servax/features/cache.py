"""Features of a whole corpus, computed once and kept in a memory-mapped file.

Log-Mel most often; whatever a `FrontEnd` or another `Hearing` makes of each sound.

A cache entry is a folder named by the hash of everything its content depends on: the files (path,
size, time of change, cut), the settings of what hears and the source of the code that computes it.
It holds ``logmel.npy`` (N, M, F) float32 (in dB) and ``entry.json`` with a digest of the array. An
entry whose digest does not fit is rebuilt, never trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.audio import read, reading
from servax.corpora import Corpus
from servax.errors import CacheError, unwritable
from servax.features.frontend import waveform_batch
from servax.runtime.host import in_order, one_thread

Progress = Callable[[int, int], None]


class Hearing(Protocol):
    """What the cache can keep: from one sound to numbers of one shape."""

    @property
    def settings(self) -> Any:
        """A dataclass of all that decides the numbers, beside the sound and the code."""

    @property
    def sample_rate(self) -> int:
        """Of the sounds, in Hz."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers of one sound."""

    @property
    def code(self) -> tuple[ModuleType, ...]:
        """Modules whose source decides the numbers."""

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return the numbers of one sound (1, T), in any shape of as many."""


@dataclass(frozen=True)
class Features:
    """Log-Mel (or what else was heard) of the utterances of a corpus."""

    logmel_db: NDArray[np.float32]
    """(N, M, F) in dB, of another `Hearing` (N, its shape); memory-mapped read-only."""
    utterances: tuple[str, ...]
    """Names of the N utterances, in the order of the rows."""
    recordings: str = ""
    """Hash of the N waveforms, rounded to 16 bits; unlike the log-Mel, whose last bits differ from
    one machine to another, it names the same recordings everywhere."""

    def rows(self, corpus: Corpus) -> NDArray[np.int64]:
        """Return the row of each utterance of `corpus`, in its order."""
        position = {name: row for row, name in enumerate(self.utterances)}
        names = [str(name) for name in corpus.utterances["utterance"]]
        missing = [name for name in names if name not in position]
        if missing:
            raise CacheError(
                corpus.name,
                f"{len(missing)} of {len(names)} utterances have no features "
                f"(first: {missing[0]}); extract those of the whole corpus before it is divided",
            )
        return np.array([position[name] for name in names], dtype=np.int64)


def extract(
    corpus: Corpus, front_end: Hearing, *, folder: Path, progress: Progress | None = None
) -> Features:
    """Return the features of a corpus, from the cache in `folder` when a valid entry is there.

    Args:
        corpus: What to extract; each utterance is one row.
        front_end: From waveform to (M, F) in dB, or another shape; runs on the CPU.
        folder: Cache folder; made when missing.
        progress: Called with (done, total) utterances while features are computed.

    Raises:
        AudioError: A file cannot be read.
        CacheError: The folder cannot be written.
    """
    names = tuple(str(name) for name in corpus.utterances["utterance"])
    entry = folder / cache_key(corpus, front_end)
    cached = _open(entry, names)
    if cached is not None:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{entry.name[:12]}-", dir=folder, ignore_cleanup_errors=True
        ) as building:
            _compute(corpus, front_end, Path(building) / "new", progress)
            # Another process may have built the entry meanwhile; only a broken one makes way.
            if _open(entry, names) is None:
                if os.path.lexists(entry):
                    entry.rename(Path(building) / "broken")
                (Path(building) / "new").rename(entry)
    except OSError as error:
        raise CacheError(folder, f"the feature cache {unwritable(error)}") from None
    fresh = _open(entry, names)
    if fresh is None:
        raise CacheError(entry, "the entry just written does not read back; check the disk")
    return fresh


def cache_key(corpus: Corpus, front_end: Hearing) -> str:
    """Return the hash (hex) of all that the features depend on."""
    digest = hashlib.sha256()
    for module in (reading, *front_end.code):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(json.dumps(asdict(front_end.settings), sort_keys=True).encode())
    for name, path, start, end in corpus.stretches:
        try:
            status = path.stat()
        except OSError as error:
            raise CacheError(path, f"cannot be read ({error.strerror})") from None
        line = f"{name}\0{path}\0{status.st_size}\0{status.st_mtime_ns}\0{start}\0{end}\n"
        digest.update(line.encode(errors="surrogatepass"))  # file names may be no UTF-8
    return digest.hexdigest()


def _compute(corpus: Corpus, front_end: Hearing, building: Path, progress: Progress | None) -> None:
    """Write the entry into `building`, a folder that does not exist yet."""
    building.mkdir()
    shape = (len(corpus), *front_end.shape)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    # Written as a stream: on a full disk a write fails, a memory map would kill the process.
    recordings = hashlib.blake2b(digest_size=32)
    with (building / "logmel.npy").open("wb") as file, one_thread():
        np.lib.format.write_array_header_1_0(file, header)
        # MKL keeps the number of threads for each thread that calls it.
        single = partial(torch.set_num_threads, 1)
        found = in_order(partial(_features_of, front_end), corpus.stretches, begin=single)
        for row, (heard, logmel_db) in enumerate(found, start=1):
            recordings.update(heard)
            file.write(logmel_db)
            if progress is not None:
                progress(row, len(corpus))
        file.flush()
        os.fsync(file.fileno())
    entry = {
        "utterances": [name for name, *_ in corpus.stretches],
        "shape": list(shape),
        "digest": _digest(building / "logmel.npy"),
        "recordings": recordings.hexdigest(),
        "front_end": asdict(front_end.settings),
    }
    (building / "entry.json").write_text(json.dumps(entry), encoding="utf-8")


def _features_of(
    front_end: Hearing, stretch: tuple[str, Path, float, float]
) -> tuple[bytes, bytes]:
    """Return the waveform of an utterance, rounded to 16 bits, and what is heard of it."""
    _, path, start, end = stretch
    samples = read(path, sample_rate=front_end.sample_rate, start=start, end=end)
    heard = np.round(samples * 32767.0).astype("<i2").tobytes() + b"end"
    with torch.inference_mode():
        values = front_end(waveform_batch(samples))
    return heard, values.numpy().astype("<f4").tobytes()


def _open(entry: Path, names: tuple[str, ...]) -> Features | None:
    """Return the entry's features, or none when it is missing or broken."""
    try:
        description = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        if description["digest"] != _digest(entry / "logmel.npy"):
            return None
        if tuple(description["utterances"]) != names:
            return None
        array = np.lib.format.open_memmap(entry / "logmel.npy", mode="r")
        if list(array.shape) != description["shape"] or array.dtype != np.float32:
            return None
        recordings = str(description["recordings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Features(logmel_db=array, utterances=names, recordings=recordings)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()
