"""Classifies with a model of your own behind the purifier: Hugging Face, ONNX, an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.errors import SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.systems import System
from servax.features import FrontEnd, ScaleSettings, waveform_batch
from servax.models import classes_of
from servax.purifier.files import cleaner_of
from servax.runtime.stream import SoundCleaner
from servax.service.decoding import Decoded
from servax.service.inference import is_silent, middle, silent, verdict
from servax.service.purifying import Purifying
from servax.service.responses import Classification, Refusal

LONGEST_SECONDS = 6.0
"""As long as a clip of a purifier."""
FRONT_RATE = 16_000


@dataclass(frozen=True)
class OtherModel(Purifying):
    """A purifier of sound and any model of sound behind it, both for inference on the CPU."""

    purifier: SoundCleaner
    system: System

    @classmethod
    def load(cls, purifier: str, model: str) -> OtherModel:
        """Return a purifier and a model as `servax audit` takes it.

        Raises:
            ServaxError: One of them cannot be used, or an extra is missing.
        """
        system = load_system(model, inputs="waveform")
        if system.regression:
            raise SettingError("model", model, "a model with a head that classifies")
        session = getattr(system.model, "session", None)
        if session is not None and "role" in session.get_modelmeta().custom_metadata_map:
            expected = "the recogniser alone: this file of servax export holds a purifier itself"
            raise SettingError("model", model, expected)
        return cls(cleaner_of(purifier), system)

    @torch.inference_mode()
    def classify(self, sounds: Sequence[Decoded]) -> list[Classification | Refusal]:
        """Return what the model says about each sound, alone: it may have a length of its own.

        Of a sound longer than `LONGEST_SECONDS` the middle is heard.
        """
        return [self._classified(sound) for sound in sounds]

    def _classified(self, sound: Decoded) -> Classification | Refusal:
        heard = middle(sound, LONGEST_SECONDS)
        if is_silent(heard):
            return silent()
        both = (heard, self.purifier.whole(heard, sound.rate)[0])
        rate = self.system.sample_rate
        x = torch.from_numpy(np.stack([_at(each, sound.rate, rate) for each in both]))  # (2, T)
        logits = self.system.model(x)  # (2, C)
        classes_of(logits)  # NaN is no verdict
        before, after = logits.softmax(1)
        return Classification(
            before=verdict(self.system.labels, before),
            after=verdict(self.system.labels, after),
            residual=_moved(*(waveform_batch(_at(each, sound.rate, FRONT_RATE)) for each in both)),
            seconds=sound.seconds,
            heard_seconds=len(heard) / sound.rate,
            sample_rate=sound.rate,
            channels=sound.channels,
        )


def _moved(heard: Tensor, purified: Tensor) -> float:
    """Return how far the log-Mel of a sound (1, T) of 16 kHz moves, as a share of its window."""
    front_end, window_db = FrontEnd(), ScaleSettings.window_db
    before, after = front_end(heard), front_end(purified)
    top = before.max()
    return float(
        (before.clamp(min=top - window_db) - after.clamp(min=top - window_db)).abs().mean()
        / window_db
    )


def _at(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    if rate == wanted:
        return samples
    made: NDArray[np.float32] = soxr.resample(samples, rate, wanted, quality="HQ")
    return made
