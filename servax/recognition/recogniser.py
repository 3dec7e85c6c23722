"""A trained recogniser with all it needs to answer for a sound: front-end, scale, network, labels.

```
sound (T,) ─ mean of channels, resampled ─ front-end ─ log-Mel in dB ─ scale ─ network ─ softmax
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from servax.audio import read_whole
from servax.errors import SettingError, ShapeError
from servax.features import Dataset, FrontEnd, FrontEndSettings, Scaling, waveform_batch
from servax.kinds import check, check_list
from servax.models import (
    RECOGNISERS,
    VGG16,
    NetworkName,
    RecogniserNetwork,
    Stored,
    classes_of,
    evaluating,
)
from servax.recognition.pretrained import Pretrained
from servax.runtime.samples import heard
from servax.training import global_seed


class Recogniser(
    Pretrained,
    pipeline_tag="audio-classification",
    tags=["speech-emotion-recognition"],
):
    """Hears a sound and says how probable each class is.

    Args:
        network: From log-Mels (B, 1, M, F) on [0, 1] to logits (B, C).
        labels: Names of the C classes, in the order of the logits.
        scale: The scale it was trained on.
        front_end: The front-end settings it was trained on.
        speakers: Who was heard in its training, as the corpus names them; empty if nobody knows.

    Example:
        >>> recogniser = Recogniser.from_pretrained("crnn-synthetic")
        >>> probabilities = recogniser(torch.randn(16_000), 16_000)
        >>> probabilities.shape, recogniser.labels
        (torch.Size([4]), ('angry', 'happy', 'neutral', 'sad'))
    """

    role = "recogniser"
    writer = "servax train"
    parts = "scale, front-end and labels"
    about = """
# A speech emotion recogniser of servax

Hears speech and says how probable each emotion is:

```python
import servax as sx

recogniser = sx.Recogniser.from_pretrained("path-or-hub-id")
probabilities = recogniser(waveform, 16_000)  # one for each of recogniser.labels
```
"""
    caution = (
        "**An attack that nobody hears can change its answer.** Measure with `servax audit` how "
        "small a one will do, and whom it is wrong about without any."
    )

    def __init__(
        self,
        network: RecogniserNetwork,
        labels: Sequence[str],
        scale: Scaling,
        front_end: FrontEndSettings | None = None,
        speakers: Iterable[str] = (),
    ) -> None:
        check("network", network, "nn.Module")
        check_list("labels", labels)
        self._hold(network, scale, front_end, speakers)
        self.network: RecogniserNetwork = network
        self.labels = tuple(labels)
        self.logmel = nn.Sequential(FrontEnd(self.front_end), self.scale)

    @classmethod
    def of(cls, network: RecogniserNetwork, train: Dataset, front_end: FrontEndSettings) -> Self:
        """Return the recogniser that a network became by training on a dataset.

        Args:
            network: What was trained.
            train: What it was trained on.
            front_end: What made the log-Mels of `train`.
        """
        corpus = train.corpus
        return cls(network, corpus.labels, train.scale, front_end, map(str, corpus.speakers))

    @property
    def sample_rate(self) -> int:
        """Rate of the sound that its front-end hears, in Hz."""
        return self.front_end.logmel.sample_rate

    @property
    def extractor(self) -> VGG16:
        """Return the network as one whose features can be read.

        Raises:
            SettingError: It is not a VGG-16, the only one with taps.
        """
        if not isinstance(self.network, VGG16):
            given, expected = type(self.network).__name__, "a VGG16, which has taps for features"
            raise SettingError("extractor", given, expected)
        return self.network

    @torch.no_grad()
    def inputs(self, sound: Any, sample_rate: int | None = None) -> Tensor:
        """Return what the network hears of a sound: log-Mel on [0, 1], (1, 1, M, F), on the CPU.

        Of a sound longer than the front-end's frames (about 6 s) that is the middle.

        Args:
            sound: Samples (T,) or (channels, T), whose channels are averaged, at least .05 s: an
                array, a tensor, a list of numbers; a path or the bytes of a file; or a mapping as
                of `datasets.Audio` (as `Purifier.purify` takes them).
            sample_rate: In Hz, of samples that do not say it.

        Raises:
            ShapeError: `sound` is not one sound (T,) or (channels, T), or is too short.
            SettingError: `sound` is none, a sample is not finite, or `sample_rate` is missing,
                outside its rule, or not the one that the sound says.
            AudioError: A file cannot be read.
        """
        samples, rate = heard(sound, sample_rate, read_whole)
        if samples.ndim > 2:
            raise ShapeError("sound", samples.shape, "one sound, (T,) or (channels, T)")
        mono = samples if samples.ndim == 1 else samples.mean(axis=0, dtype=np.float32)
        if rate != self.sample_rate:
            mono = soxr.resample(mono, rate, self.sample_rate, quality="HQ")
        inputs: Tensor = self.logmel(waveform_batch(mono))
        return inputs

    def __call__(self, sound: Any, sample_rate: int | None = None) -> Tensor:
        """Return the probability of each of `labels` for a sound, (C,), on the CPU.

        Args:
            sound: As of `inputs`.
            sample_rate: In Hz, of samples that do not say it.

        Raises:
            ServaxError: As `inputs`; or an output of the network is NaN or infinite.
        """
        x = self.inputs(sound, sample_rate)
        with evaluating(self.network), torch.inference_mode():
            logits = self.network(x.to(next(self.network.parameters()).device))
        classes_of(logits)  # NaN is no answer
        probabilities: Tensor = logits[0].softmax(0).cpu()
        return probabilities

    @classmethod
    def _of(
        cls, stored: Stored, scale: Scaling, front_end: FrontEndSettings, speakers: list[str]
    ) -> Self:
        network, labels = stored.network, stored.extra["labels"]
        if not isinstance(network, RecogniserNetwork) or len(labels) != network.settings.classes:
            raise KeyError("labels")
        return cls(network, labels, scale, front_end, speakers)

    def _extra(self) -> dict[str, Any]:
        return super()._extra() | {"labels": list(self.labels)}


def new_recogniser(
    network: NetworkName, classes: int, width: int, *, seed: int
) -> RecogniserNetwork:
    """Return an untrained network of a recogniser; the same seed gives the same weights.

    Raises:
        SettingError: `network` is not one of `RECOGNISERS`.
    """
    if network not in RECOGNISERS:
        raise SettingError.choice("network", network, RECOGNISERS)
    with global_seed(seed, "weights"):
        return RECOGNISERS[network](classes, width)
