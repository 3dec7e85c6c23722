"""A trained recogniser with all it needs to answer for a sound: front-end, scale, network, labels.

```
sound (T,) ─ mean of channels, resampled ─ front-end ─ log-Mel in dB ─ scale ─ network ─ softmax
```

An `EncoderRecogniser` hears the sound itself, through a speech encoder that is published elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from servax.audio import read_whole
from servax.errors import CheckpointError, SettingError, ShapeError
from servax.features import Dataset, FrontEnd, FrontEndSettings, Scaling, waveform_batch
from servax.features.whisper import LONGEST, SAMPLE_RATE
from servax.kinds import Choice, check, check_kind, check_list
from servax.models import (
    RECOGNISERS,
    VGG16,
    EncoderClassifier,
    EncoderHead,
    NetworkName,
    Noise,
    RecogniserNetwork,
    SmoothedClassifier,
    Stored,
    classes_of,
    evaluating,
    open_encoder,
    save_network,
)
from servax.models.storage import SETTINGS, WEIGHTS
from servax.recognition.pretrained import Pretrained
from servax.runtime.samples import heard
from servax.training import global_seed

ENCODER = "encoder"
"""Folder of an encoder that is saved beside its head."""
HEARS_SOUND = (
    "one that hears log-Mel, as servax train writes it without --encoder: this one hears sound "
    "and has neither scale nor front-end"
)


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
    fetched = (
        SETTINGS,
        WEIGHTS,
        f"{ENCODER}/config.json",
        f"{ENCODER}/preprocessor_config.json",
        f"{ENCODER}/model.safetensors",
    )
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
        self.logmel: nn.Module = nn.Sequential(FrontEnd(self.front_end), self.scale)

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
    def _made(cls, folder: Path, stored: Stored, speakers: list[str], **told: Any) -> Self:
        if isinstance(stored.network, EncoderHead) and cls is Recogniser:
            return cast(Self, EncoderRecogniser._made(folder, stored, speakers, **told))
        return super()._made(folder, stored, speakers)

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


class EncoderRecogniser(
    Recogniser,
    pipeline_tag="audio-classification",
    tags=["speech-emotion-recognition"],
):
    """Hears a sound through a speech encoder of transformers, and says how probable each class is.

    Its network takes waveforms (B, T) at 16 kHz, so an attack changes the sound itself.

    Args:
        network: The encoder with its head. A `SmoothedClassifier` answers differently each time,
            as its generator draws.
        labels: Names of the C classes, in the order of the logits.
        speakers: Who was heard in its training, as the corpus names them; empty if nobody knows.
    """

    parts = "head, labels and encoder"
    holds = "the head, and which encoder it needs: its name and the SHA-256 of its weights"
    network: EncoderClassifier  # type: ignore[assignment]

    def __init__(
        self, network: EncoderClassifier, labels: Sequence[str], speakers: Iterable[str] = ()
    ) -> None:
        check_kind("network", network, EncoderClassifier)
        check_list("labels", labels)
        self._keep(network, speakers)
        self.labels = tuple(labels)
        self.logmel = nn.Identity()  # the encoder has its own
        self._with_encoder = False

    @property
    def sample_rate(self) -> int:
        """Rate of the sound that the encoder hears, in Hz."""
        return SAMPLE_RATE

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what only recognisers of log-Mel have.

        Raises:
            SettingError: A front-end or a scale was asked for.
        """
        if name in ("front_end", "scale"):
            raise SettingError("recogniser", type(self).__name__, HEARS_SOUND)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def inputs(self, sound: Any, sample_rate: int | None = None) -> Tensor:
        """Return what the network hears of a sound, (1, T) at 16 kHz: of over 30 s the middle.

        Args:
            sound: As of `Recogniser.inputs`.
            sample_rate: In Hz, of samples that do not say it.

        Raises:
            ServaxError: As `Recogniser.inputs`.
        """
        waveform = super().inputs(sound, sample_rate)
        start = max(waveform.shape[1] - LONGEST, 0) // 2
        return waveform[:, start : start + LONGEST]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        encoder: str | None = None,
        generator: torch.Generator | None = None,
        **hub: Any,
    ) -> Self:
        """Return what is saved in a folder or on the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: As of `Recogniser.from_pretrained`.
            encoder: Folder or hub id of its encoder; default where it was when the head was saved.
            generator: Draws the noise of one that adds some; default as of `SmoothedClassifier`.
            **hub: Passed on to huggingface_hub's `snapshot_download`.

        Raises:
            CheckpointError: As `Recogniser.from_pretrained`; or the encoder is not there, or not
                the one of the training.
        """
        folder = cls._folder(pretrained_model_name_or_path, hub)
        return cls._read(folder, encoder=encoder, generator=generator)

    def save_pretrained(
        self, save_directory: str | Path, *, encoder: bool = False, **hub: Any
    ) -> str | None:
        """Write the head, its settings and a model card to a folder.

        Args:
            save_directory: Made when missing.
            encoder: Whether the weights of the encoder are written beside it; otherwise the folder
                names it by its place and hash.
            **hub: As of `Recogniser.save_pretrained`.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        self._with_encoder = encoder
        return super().save_pretrained(save_directory, **hub)

    def _save_pretrained(self, save_directory: Path) -> None:
        heard = self.network.encoder
        extra = {
            "role": self.role,
            "speakers": list(self.speakers),
            "labels": list(self.labels),
            "encoder": {"place": heard.place, "sha256": heard.sha256},
        }
        if isinstance(self.network, SmoothedClassifier):
            extra["noise"] = asdict(self.network.noise)
        save_network(self.network.head, save_directory, extra=extra)
        if self._with_encoder:
            heard.save(save_directory / ENCODER)

    @classmethod
    def _made(
        cls,
        folder: Path,
        stored: Stored,
        speakers: list[str],
        *,
        encoder: str | None = None,
        generator: torch.Generator | None = None,
        **told: Any,
    ) -> Self:
        head, labels, one = stored.network, stored.extra["labels"], stored.extra["encoder"]
        if not isinstance(head, EncoderHead) or len(labels) != head.settings.classes:
            raise KeyError("labels")
        beside = folder / ENCODER
        # What lies beside the head may belong to one that was saved there before.
        places = [encoder] if encoder else [*[str(beside)] * beside.is_dir(), one["place"]]
        for place in places:
            found = open_encoder(place, layers=head.settings.layers)
            if found.sha256 == one["sha256"]:
                break
        else:
            raise CheckpointError(
                place,
                f"is another encoder than the one that the head in {folder} was trained on: its "
                f"SHA-256 is {found.sha256}, expected {one['sha256']}; say where that one is with "
                "encoder=",
            )
        if place == str(beside):
            found.place = one["place"]
        network = EncoderClassifier(found, head)
        if "noise" in stored.extra:
            network = SmoothedClassifier(found, head, Noise(**stored.extra["noise"]), generator)
        return cls(network, labels, speakers)


def new_recogniser(
    network: NetworkName, classes: int, width: int, *, seed: int
) -> RecogniserNetwork:
    """Return an untrained network of a recogniser; the same seed gives the same weights.

    Raises:
        SettingError: `network` is not one of `RECOGNISERS`.
    """
    Choice(RECOGNISERS).check("network", network)
    with global_seed(seed, "weights"):
        return RECOGNISERS[network](classes, width)
