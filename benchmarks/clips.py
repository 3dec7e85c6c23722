"""Recordings that the benchmarks of sound share: RAVDESS clips, as they lie on the disk."""

from __future__ import annotations

import importlib
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servax import audio
from servax.corpora import data_folder

RATE = 16_000
CLIP_SAMPLES = 96_000
"""Of a clip of 6 s."""


def recordings(count: int | None = None) -> list[Path]:
    """Return `count` RAVDESS recordings by name, spread evenly over the corpus; default all."""
    every = sorted((data_folder() / "ravdess").rglob("03-01-*.wav"))
    if not every:
        sys.exit(f"{data_folder() / 'ravdess'}: holds no RAVDESS; servax corpus fetch ravdess.")
    if count is None or count >= len(every):
        return every
    return [every[i * len(every) // count] for i in range(count)]


def waveforms(count: int) -> list[NDArray[np.float32]]:
    """Return the samples (T,) of recordings at 16 kHz; those of a smaller corpus come again."""
    heard = [audio.read(path, sample_rate=RATE) for path in recordings(count)]
    return [heard[i % len(heard)] for i in range(count)]


def six_seconds() -> NDArray[np.float32]:
    """Return two recordings one after the other, cut to 6 s."""
    return np.concatenate(waveforms(4))[:CLIP_SAMPLES]


def load_torchaudio() -> types.ModuleType:
    """Return torchaudio, beside a CPU build of torch too.

    Its wheel is a CUDA build whose compiled half does not load there; MelSpectrogram is Python and
    loads once that half is replaced by an empty module.
    """
    extension = types.ModuleType("torchaudio._extension")
    for name, value in {
        "_IS_TORCHAUDIO_EXT_AVAILABLE": False,
        "_IS_ALIGN_AVAILABLE": False,
        "fail_if_no_align": lambda function: function,
    }.items():
        setattr(extension, name, value)
    sys.modules.setdefault("torchaudio._extension", extension)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchaudio")


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a child process that runs this checkout of servax."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}
