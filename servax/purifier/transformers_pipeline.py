"""A purifier inside an audio-classification pipeline of Hugging Face transformers.

What changes is one step: `preprocess` hears the purified sound. Lists, generators, data sets,
batches, devices and all settings stay the pipeline's own.
"""

from __future__ import annotations

import copy
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from servax.audio import read_whole
from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import check_kind
from servax.purifier.files import cleaner_of
from servax.purifier.purifier import Purifier
from servax.runtime.samples import Samples, as_file, heard
from servax.runtime.stream import SoundCleaner

LONGEST_WAIT_SECONDS = 60.0
"""For a server, when a sound is a URL."""


def protected_pipeline(classify: Any, purifier: SoundCleaner | str | Path) -> Any:
    """Return a copy of a pipeline that hears everything through a purifier; weights are shared.

    It takes what the pipeline takes, one or many: paths, URLs and bytes (channels are averaged),
    arrays and tensors (T,) at the rate of its feature extractor, and mappings with ``array`` or
    ``raw`` and ``sampling_rate``. Files and other rates are read and resampled here, so neither
    ffmpeg nor torchaudio is needed.

    Args:
        classify: What ``transformers.pipeline("audio-classification", ...)`` gave.
        purifier: The purifier, which computes on the device of the pipeline, or what
            `Purifier.from_pretrained` takes; an exported one (``purifier.onnx``); or a
            `servax.runtime.NoiseWiener` or its name (``noise-wiener:20``).

    Raises:
        SettingError: `classify` is no such pipeline, or `purifier` no purifier.
        CheckpointError: There is no purifier of that name.

    Example:
        >>> classify = pipeline("audio-classification", model="...")  # doctest: +SKIP
        >>> classify = protected_pipeline(classify, "ssad-plus-ravdess")  # doctest: +SKIP
        >>> classify(["a.wav", "b.wav"], batch_size=2, top_k=1)  # doctest: +SKIP
    """
    rate = getattr(getattr(classify, "feature_extractor", None), "sampling_rate", None)
    if not callable(getattr(classify, "preprocess", None)) or rate is None:
        raise SettingError(
            "classify",
            type(classify).__name__,
            "an audio-classification pipeline: transformers.pipeline('audio-classification', ...)",
        )
    if isinstance(purifier, str | Path):
        purifier = cleaner_of(str(purifier))
    check_kind("purifier", purifier, SoundCleaner)
    if isinstance(purifier, Purifier):
        purifier = purifier.frozen().to(classify.device)
    behind = copy.copy(classify)
    behind.preprocess = _Preprocess(classify, purifier, int(rate))
    return behind


class _Preprocess:
    """The pipeline's own preprocessing, of purified sound; a class, so that workers can load it."""

    def __init__(self, classify: Any, purifier: SoundCleaner, rate: int) -> None:
        self.original, self.purifier, self.rate = classify.preprocess, purifier, rate

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        cleaned = self.purifier.purify(self._mono(inputs), self.rate)
        return self.original({"raw": cleaned, "sampling_rate": self.rate}, **settings)

    def _mono(self, inputs: Any) -> Samples:
        """Return what is to be classified as samples (T,) at the pipeline's rate."""
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            inputs = _fetched(inputs)
        of_file = as_file(inputs) is not None
        says_rate = of_file or isinstance(inputs, Mapping) or hasattr(inputs, "get_all_samples")
        if not says_rate:
            inputs = {"raw": inputs, "sampling_rate": self.rate}
        samples, rate = heard(inputs, None, read_whole)
        if samples.ndim == 2 and (of_file or len(samples) == 1):
            samples = samples.mean(axis=0, dtype=np.float32)
        if samples.ndim != 1:
            raise ShapeError("the sound", samples.shape, "(T,) mono samples, as any pipeline")
        if rate != self.rate:
            samples = soxr.resample(samples, rate, self.rate, quality="HQ")
        return samples


def _fetched(url: str) -> bytes:
    """Return what a URL gives."""
    try:
        with urllib.request.urlopen(url, timeout=LONGEST_WAIT_SECONDS) as answer:
            return answer.read()  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise ServaxError(f"{url} cannot be fetched ({error}): give a file instead.") from None
