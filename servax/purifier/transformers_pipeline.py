"""A purifier inside a model of another library: transformers, SpeechBrain, audonnx.

What changes is the one step through which all sound goes: it hears the purified one. Lists, files,
batches, devices and all settings stay the library's own.
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
    """Return a copy of a classifier that hears everything through a purifier; weights are shared.

    A pipeline of transformers takes what it took, one or many: paths, URLs and bytes (channels are
    averaged), arrays and tensors (T,) at the rate of its feature extractor, and mappings with
    ``array`` or ``raw`` and ``sampling_rate``. Files and other rates are read and resampled here,
    so neither ffmpeg nor torchaudio is needed. A classifier of SpeechBrain has the same methods;
    of a model of audonnx comes what is called as the model is.

    Args:
        classify: What ``transformers.pipeline("audio-classification", ...)`` gave; a classifier of
            ``speechbrain.inference`` (``encode_batch``, and what calls it: ``classify_file``,
            ``classify_batch``); or what ``audonnx.load`` gave (``model(signal, sampling_rate)``).
        purifier: The purifier, which computes on the device of the classifier, or what
            `Purifier.from_pretrained` takes; an exported one (``purifier.onnx``); or a
            `servax.runtime.NoiseWiener` or its name (``noise-wiener:20``).

    Raises:
        SettingError: `classify` is none of these, or `purifier` no purifier.
        CheckpointError: There is no purifier of that name.

    Example:
        >>> classify = pipeline("audio-classification", model="...")  # doctest: +SKIP
        >>> classify = protected_pipeline(classify, "ssad-plus-ravdess")  # doctest: +SKIP
        >>> classify(["a.wav", "b.wav"], batch_size=2, top_k=1)  # doctest: +SKIP
    """
    step, rate = _hears(classify)
    if isinstance(purifier, str | Path):
        purifier = cleaner_of(str(purifier))
    check_kind("purifier", purifier, SoundCleaner)
    if step == "__call__":
        return _Step(classify, purifier)
    if isinstance(purifier, Purifier):
        purifier = purifier.frozen().to(classify.device)
    behind = copy.copy(classify)
    original = getattr(classify, step)
    made = _Preprocess if step == "preprocess" else _Step
    setattr(behind, step, made(original, purifier, rate))
    return behind


def _hears(classify: Any) -> tuple[str, int]:
    """Return the step through which a classifier hears, and its rate where no caller says it."""
    rate = getattr(getattr(classify, "feature_extractor", None), "sampling_rate", None)
    if callable(getattr(classify, "preprocess", None)) and rate is not None:
        return "preprocess", int(rate)
    rate = getattr(getattr(classify, "audio_normalizer", None), "sample_rate", None)
    if callable(getattr(classify, "encode_batch", None)) and rate is not None:
        return "encode_batch", int(rate)
    if callable(classify) and isinstance(getattr(classify, "outputs", None), Mapping):
        return "__call__", 0
    raise SettingError(
        "classify",
        type(classify).__name__,
        "an audio-classification pipeline: transformers.pipeline('audio-classification', ...), a "
        "classifier of speechbrain.inference, or a model of audonnx",
    )


class _Step:
    """What takes sound first, and perhaps its rate: it hears it purified."""

    def __init__(self, original: Any, purifier: SoundCleaner, rate: int = 0) -> None:
        self.original, self.purifier, self.rate = original, purifier, rate

    def __call__(self, sound: Any, *others: Any, **settings: Any) -> Any:
        if self.rate:
            return self.original(self.purifier.purify(sound, self.rate), *others, **settings)
        rate = settings["sampling_rate"] if "sampling_rate" in settings else others[0]
        return self.original(self.purifier.purify(sound, rate), *others, **settings)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "original":  # what copies and workers look for
            raise AttributeError(name)
        return getattr(self.original, name)


class _Preprocess(_Step):
    """The pipeline's own preprocessing, of purified sound; a class, so that workers can load it."""

    def __call__(self, sound: Any, *others: Any, **settings: Any) -> Any:
        cleaned = self.purifier.purify(self._mono(sound), self.rate)
        return self.original({"raw": cleaned, "sampling_rate": self.rate}, *others, **settings)

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
