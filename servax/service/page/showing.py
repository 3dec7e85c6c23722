"""Attacks a sound and purifies it: the three sounds, spectrograms and answers that a page shows.

The attack is projected ascent on the samples (`WaveformPGD`), so what it makes can be heard, and it
leads away from what the recogniser itself says of the original, since nobody tells a page what is
true. It is tried twice: by an attacker who knows the recogniser only, and by one who knows the
purifier too. What the first does is never told without what the second does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.attacks import WaveformPGD
from servax.audio import IN_RANGE
from servax.defences.detector import Detector
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.features import FrontEnd, LogMel, LogMelSettings
from servax.features.frontend import SILENCE_RMS
from servax.features.full_scale import beyond_full_scale
from servax.models import WaveformClassifier, classes_of
from servax.perturbation.sixteen_bit import nearest
from servax.purifier.sound_purifier import SoundPurifier
from servax.runtime.limiter import limited
from servax.runtime.rules import SHORTEST_SECONDS
from servax.service.models import Models
from servax.service.page.settings import STEPS, Knowledge, ShowSettings
from servax.service.refusals import Refusal

Samples = NDArray[np.float32]
KNOWLEDGE: tuple[Knowledge, ...] = get_args(Knowledge)


@dataclass(frozen=True)
class Heard:
    """One sound and what the recogniser makes of it."""

    sound: Samples
    """(T,) samples, full scale ±1."""
    logmel: Samples
    """(M, 1 + T // hop) log-Mel in dB, at the level of the sound."""
    probabilities: tuple[float, ...]
    """One for each label."""

    @property
    def answer(self) -> int:
        """Place of the most probable label."""
        return int(np.argmax(self.probabilities))


@dataclass(frozen=True)
class Attempt:
    """What one attacker gets for one original."""

    knowledge: Knowledge
    """What the attacker knows."""
    snr_db: float
    """Signal-to-noise ratio of the attacked sound, in dB; infinite where nothing moved."""
    attacked: Heard
    """The attacked sound, before the bare recogniser."""
    purified: Heard
    """The attacked sound after purification."""
    residual: float
    """How far the purifier moves the attacked log-Mel: mean of abs(x - P(x)) on [0, 1]."""


@dataclass(frozen=True)
class Listened:
    """A clip that nobody attacked."""

    original: Heard
    """The clip, one channel, 16 bits, at the front-end's rate."""
    purified: Heard
    """The original after purification, which costs something too."""
    residual: float
    """As that of an attempt, for the original."""
    labels: tuple[str, ...]
    """What the recogniser tells apart."""
    logmel: LogMelSettings
    """The front-end of sounds and spectrograms: rate, hop and Mel bins."""


@dataclass(frozen=True)
class Shown:
    """All that the page shows of one clip."""

    settings: ShowSettings
    """What was asked."""
    clip: Listened
    """The clip as it is."""
    attempts: tuple[Attempt, ...]
    """Of each of `KNOWLEDGE`, in that order; empty without an attack."""

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that was asked for; None without an attack."""
        asked = [a for a in self.attempts if a.knowledge == self.settings.knowledge]
        return asked[0] if asked else None


def show(models: Models, samples: Samples, rate: int, settings: ShowSettings) -> Shown:
    """Return what becomes of a sound under attack, with and without the purifier.

    Args:
        models: The purifier and the recogniser.
        samples: (T,) mono samples, full scale ±1.
        rate: Of the samples, in Hz.
        settings: Attack, strength and what the attacker knows.

    Raises:
        Refusal: The sound is too short, silent, beyond full scale, or holds NaN or infinity.
    """
    clip = listen(models, samples, rate)
    kinds = attackers(settings)
    return Shown(
        settings, clip, tuple(attempt(models, clip.original, settings, kind) for kind in kinds)
    )


def attackers(settings: ShowSettings) -> tuple[Knowledge, ...]:
    """Return who attacks: everybody, or nobody."""
    return () if settings.attack == "none" else KNOWLEDGE


def listen(models: Models, samples: Samples, rate: int) -> Listened:
    """Return what the recogniser makes of a sound, and what the purifier does to it.

    Arguments and errors as for `show`.
    """
    scene = _Scene(models)
    original = scene.prepared(samples, rate)
    return Listened(
        scene.hear(original),
        scene.hear(scene.purify(original)),
        scene.residual(original),
        models.recogniser.labels,
        scene.settings,
    )


def attempt(
    models: Models, original: Heard, settings: ShowSettings, knowledge: Knowledge
) -> Attempt:
    """Return what an attacker gets who leads away from what is heard of the original.

    Args:
        models: The purifier and the recogniser.
        original: That of `listen`.
        settings: Attack, not `none`, and strength.
        knowledge: What the attacker knows.
    """
    scene = _Scene(models)
    steps = STEPS[settings.attack]
    attack = WaveformPGD(
        snr_db=settings.snr_db, steps=steps, step=1.0 if steps == 1 else WaveformPGD.step
    )
    target = scene.bare if knowledge == "oblivious" else scene.defended
    sound = torch.from_numpy(original.sound).unsqueeze(0)
    attacked = attack(target, sound, torch.tensor([original.answer]))
    return Attempt(
        knowledge,
        float(signal_to_noise_ratio(sound, attacked)),
        scene.hear(attacked),
        scene.hear(scene.purify(attacked)),
        scene.residual(attacked),
    )


class _Scene:
    """A recogniser of sounds, with and without the purifier of sounds in front of it."""

    def __init__(self, models: Models) -> None:
        recogniser = models.recogniser
        self.settings = recogniser.front_end.logmel
        self.logmel = LogMel(self.settings)
        self.input = nn.Sequential(FrontEnd(recogniser.front_end), recogniser.scale)
        self.bare = WaveformClassifier(self.input, recogniser.network)
        self.purifier = SoundPurifier(models.purifier, self.settings.sample_rate)
        self.defended = nn.Sequential(self.purifier, self.bare)
        self.detector = Detector(models.purifier)

    def prepared(self, samples: Samples, rate: int) -> Tensor:
        """Return (1, T) samples of 16 bits at the front-end's rate, or refuse them."""
        wanted = self.settings.sample_rate
        if not np.isfinite(samples).all():
            raise Refusal(422, "not_finite", "The clip holds NaN or infinite samples; export it.")
        if len(samples) < SHORTEST_SECONDS * rate:
            raise Refusal(
                422,
                "too_short",
                f"The clip is {len(samples) / rate:.3f} s long, expected at least "
                f"{SHORTEST_SECONDS} s; record some speech.",
            )
        peak = float(np.abs(samples).max())
        if peak > IN_RANGE:
            raise Refusal(422, "too_loud", f"The clip {beyond_full_scale(peak)}.")
        if rate != wanted:
            samples = soxr.resample(samples, rate, wanted, quality="HQ")
        # Attacks count in steps of 16 bits, and a WAV file is what the page plays.
        kept = limited(np.array(samples, dtype=np.float32), wanted)  # resampling overshoots
        sound = nearest(torch.from_numpy(kept).unsqueeze(0))
        if float(sound.square().mean().sqrt()) < SILENCE_RMS:
            raise Refusal(422, "silent", "The clip is silent; record or choose one with speech.")
        return sound

    @torch.no_grad()
    def hear(self, sound: Tensor) -> Heard:
        """Return what the bare recogniser makes of a sound (1, T)."""
        logits = self.bare(sound)
        classes_of(logits)  # NaN is no answer
        probabilities = logits.softmax(dim=1)[0]
        return Heard(
            sound[0].numpy(), self.logmel(sound)[0, 0].numpy(), tuple(probabilities.tolist())
        )

    @torch.no_grad()
    def purify(self, sound: Tensor) -> Tensor:
        """Return a purified sound (1, T)."""
        purified: Tensor = self.purifier(sound)
        return purified

    @torch.no_grad()
    def residual(self, sound: Tensor) -> float:
        """Return how far the purifier moves the log-Mel of a sound (1, T)."""
        return float(self.detector(self.input(sound)))
