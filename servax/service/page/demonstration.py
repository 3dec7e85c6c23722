"""Attacks a clip and purifies it: the sounds, spectrograms and answers that the page shows.

It runs where the models are. The attack is projected ascent on the samples (`WaveformPGD`), so what
it makes can be heard, and it leads away from what the recogniser itself says of the original, since
nobody tells a page what is true. It is tried twice: by an attacker who knows the recogniser only,
and by one who knows the purifier too. What the first does is never told without what the second
does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax import audio
from servax.attacks import WaveformPGD
from servax.corpora.synthetic import PROSODY, SENTENCES, speak
from servax.defences import Detector
from servax.errors import AudioError, SettingError
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.features import LogMel, LogMelSettings
from servax.features.frontend import SILENCE_RMS
from servax.features.full_scale import beyond_full_scale, read_in_range
from servax.models import WaveformClassifier, classes_of
from servax.perturbation import into_16_bit
from servax.purifier import SoundPurifier
from servax.runtime.limiter import limited
from servax.runtime.samples import SHORTEST_SECONDS
from servax.service.inference import Models
from servax.service.responses import Refusal
from servax.service.settings import PageLimits

Samples = NDArray[np.float32]
AttackName = Literal["none", "fgsm", "pgd"]
Knowledge = Literal["oblivious", "adaptive"]
KNOWLEDGE: tuple[Knowledge, ...] = get_args(Knowledge)
LOWEST_SNR_DB, HIGHEST_SNR_DB = 10.0, 60.0
STEPS = {"fgsm": 1, "pgd": 15}
"""Ascent steps of each attack; FGSM is one step as long as its budget."""


MOST_CHANNELS = 2
EXAMPLE_RATE = 16_000
EXAMPLE_VOICE = "m1"
EXAMPLE = ("sad", 3)
"""Label and sentence of the example: one where the defence works. Most are not so kind."""


@dataclass(frozen=True)
class ShowSettings:
    """Which attack is tried."""

    attack: AttackName = "pgd"
    """`none`, `fgsm` or `pgd` (15 steps), on the samples of the sound, away from the recogniser's
    own answer."""
    snr_db: float = 30.0
    """Strength: lowest signal-to-noise ratio of the attacked sound, in dB; lower is stronger."""
    knowledge: Knowledge = "oblivious"
    """Whose sound is drawn and heard: the attacker's who knows the recogniser only, or that of one
    who knows the purifier too. Both are always tried."""

    def __post_init__(self) -> None:
        for name, kind in (("attack", AttackName), ("knowledge", Knowledge)):
            if getattr(self, name) not in get_args(kind):
                raise SettingError.choice(name, getattr(self, name), get_args(kind))
        given = self.snr_db
        number = isinstance(given, int | float) and math.isfinite(given)
        if not (number and LOWEST_SNR_DB <= given <= HIGHEST_SNR_DB):
            raise SettingError("snr_db", given, f"{LOWEST_SNR_DB:g} to {HIGHEST_SNR_DB:g} dB")


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
class Clip:
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
    clip: Clip
    """The clip as it is."""
    attempts: tuple[Attempt, ...]
    """Of each of `KNOWLEDGE`, in that order; empty without an attack."""

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that was asked for; None without an attack."""
        asked = [a for a in self.attempts if a.knowledge == self.settings.knowledge]
        return asked[0] if asked else None


def listen_to_file(models: Models, path: Path, limits: PageLimits) -> Clip:
    """Return what the recogniser makes of the sound in a file that somebody sent.

    Args:
        models: The purifier and the recogniser.
        path: The file.
        limits: What is refused before it is decoded.

    Raises:
        Refusal: The file is no sound, or one that is too long, too short or silent; the sentence
            does not say where it lies.
    """
    rate = models.recogniser.front_end.logmel.sample_rate
    return listen(models, hear(path, rate, limits), rate)


def hear(path: Path, rate: int, limits: PageLimits) -> Samples:
    """Return the sound (T,) in a file at a rate in Hz, its channels averaged.

    Raises:
        Refusal: The file is too large, no sound, or a sound that is too long or of too many
            channels.
    """
    try:
        size = path.stat().st_size
        if size > limits.upload_bytes:
            raise Refusal(
                413,
                "too_large",
                f"The file has {size / 1e6:.1f} MB, expected at most "
                f"{limits.upload_bytes / 1e6:g} MB; send a shorter clip.",
            )
        # The header alone: nothing is decoded before its length is known.
        with audio.opened(path) as sound:
            seconds, channels = sound.frames / sound.samplerate, sound.channels
        if seconds > limits.seconds:
            raise Refusal(
                413,
                "too_long",
                f"The clip is {seconds:.1f} s long, expected at most {limits.seconds:g} s; "
                "cut it with the scissors below the clip, or send a shorter one.",
            )
        if channels > MOST_CHANNELS:
            raise Refusal(
                422,
                "too_many_channels",
                f"The clip has {channels} channels, expected at most {MOST_CHANNELS}; mix them "
                "down.",
            )
        return read_in_range(path, sample_rate=rate)
    except AudioError as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
        raise Refusal(422, "not_sound", f"The clip {reason}; send another one.") from None
    except OSError:
        raise Refusal(410, "gone", "The clip is no longer here; send it again.") from None


def speak_example(models: Models) -> tuple[int, Samples]:
    """Return rate in Hz and samples (T,) of a sentence that espeak-ng speaks.

    A voice of the synthetic corpus that no packaged network has heard in training, with the mean
    prosody of one label: the same sound each time.

    Raises:
        CorpusError: espeak-ng fails.
    """
    del models  # What runs in a worker is given its networks.
    label, sentence = EXAMPLE
    prosody = PROSODY[label]
    line: dict[str, Any] = {"text": SENTENCES[sentence]}
    for name in ("rate", "pitch", "pitch_range"):
        line[name] = round(getattr(prosody, name)[0])
    ((spoken, rate),) = speak(f"en+{EXAMPLE_VOICE}", [line])
    sound = soxr.resample(spoken.astype(np.float32), rate, EXAMPLE_RATE, quality="HQ")
    peak = np.float32(10 ** (prosody.level_db[0] / 20) / np.abs(sound).max())
    return EXAMPLE_RATE, sound * peak


def attackers(settings: ShowSettings) -> tuple[Knowledge, ...]:
    """Return who attacks: everybody, or nobody."""
    return () if settings.attack == "none" else KNOWLEDGE


def listen(models: Models, samples: Samples, rate: int) -> Clip:
    """Return what the recogniser makes of a sound, and what the purifier does to it.

    Args:
        models: The purifier and the recogniser.
        samples: (T,) mono samples, full scale ±1.
        rate: Of the samples, in Hz.

    Raises:
        Refusal: The sound is too short, silent, beyond full scale, or holds NaN or infinity.
    """
    sounds = _SoundModels(models)
    original = sounds.heard(sounds.prepared(samples, rate))
    return Clip(*original, models.recogniser.labels, sounds.settings)


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
    sounds = _SoundModels(models)
    steps = STEPS[settings.attack]
    attack = WaveformPGD(
        snr_db=settings.snr_db, steps=steps, step=1.0 if steps == 1 else WaveformPGD.step
    )
    target = sounds.bare if knowledge == "oblivious" else sounds.defended
    sound = torch.from_numpy(original.sound).unsqueeze(0)
    attacked = attack(target, sound, torch.tensor([original.answer]))
    ratio = float(signal_to_noise_ratio(sound, attacked))
    return Attempt(knowledge, ratio, *sounds.heard(attacked))


class _SoundModels:
    """A recogniser of sounds, with and without the purifier of sounds in front of it."""

    def __init__(self, models: Models) -> None:
        recogniser = models.recogniser
        self.settings = recogniser.front_end.logmel
        self.logmel = LogMel(self.settings)
        self.input = recogniser.logmel
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
        if peak > audio.IN_RANGE:
            raise Refusal(422, "too_loud", f"The clip {beyond_full_scale(peak)}.")
        if rate != wanted:
            samples = soxr.resample(samples, rate, wanted, quality="HQ")
        # Attacks count in steps of 16 bits, and a WAV file is what the page plays.
        kept = limited(np.array(samples, dtype=np.float32), wanted)  # resampling overshoots
        sound = into_16_bit(torch.from_numpy(kept).unsqueeze(0))
        if float(sound.square().mean().sqrt()) < SILENCE_RMS:
            raise Refusal(422, "silent", "The clip is silent; record or choose one with speech.")
        return sound

    @torch.no_grad()
    def heard(self, sound: Tensor) -> tuple[Heard, Heard, float]:
        """Return what is made of a sound (1, T), bare and purified, and how far P moves it."""
        residual = float(self.detector(self.input(sound)))
        return self._heard(sound), self._heard(self.purifier(sound)), residual

    def _heard(self, sound: Tensor) -> Heard:
        logits = self.bare(sound)
        classes_of(logits)  # NaN is no answer
        probabilities = tuple(logits.softmax(dim=1)[0].tolist())
        return Heard(sound[0].numpy(), self.logmel(sound)[0, 0].numpy(), probabilities)
