"""Attacks a sound and purifies it: the sounds, spectrograms and answers that the page shows.

The attack is projected ascent on the samples (`WaveformPGD`), so what it makes can be heard, and it
leads away from what the recogniser itself says of the original, since nobody tells a service what
is true. It is tried by an attacker who knows the recogniser only, and by one who knows the purifier
too: what the first does is never told without what the second does.
"""

from __future__ import annotations

import base64
from dataclasses import asdict

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from servax.attacks import WaveformPGD
from servax.audio import IN_RANGE, beyond_full_scale, encoded
from servax.defences import Detector, ExpectationOverDraws, NoiseWiener
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.features import LogMel, LogMelSettings
from servax.features.logmel import hz_to_mel
from servax.models import WaveformClassifier, classes_of
from servax.perturbation import into_16_bit
from servax.purifier import Purifier, SoundPurifier
from servax.runtime.limiter import limited
from servax.service.decoding import Decoded
from servax.service.inference import Models, is_silent, silent, verdict
from servax.service.responses import AttackMethod, Heard, Knowledge, Refusal, Spectrogram, Trial

STEPS = {"fgsm": 1, "pgd": 15}
"""Ascent steps of each attack; FGSM is one step as long as its budget."""
DRAWS = 8
"""Over which an attacker averages the gradient through a random purifier."""
TICKS_HZ = (0.0, 250.0, 500.0, 1_000.0, 2_000.0, 4_000.0, 8_000.0, 16_000.0, 24_000.0)
OVERSHOOTING = ("MP3", "OGG")
"""Containers whose decoders go beyond full scale a little."""


def trial(
    models: Models, sound: Decoded, method: AttackMethod, snr_db: float, knowledge: Knowledge
) -> Trial:
    """Return what an attacker gets who leads away from what is heard of a sound.

    Args:
        models: The purifier and the recogniser.
        sound: Its channels are averaged.
        method: `fgsm` (one step) or `pgd` (15 steps); `none` only where nobody attacks.
        snr_db: Strength: lowest signal-to-noise ratio of the attacked sound; lower is stronger.
        knowledge: Who attacks; of nobody, what becomes of the sound as it is.

    Raises:
        Refusal: The sound is silent or beyond full scale.
    """
    recogniser = models.recogniser
    bare = WaveformClassifier(recogniser.logmel, recogniser.network)
    purifier = front(models)
    original = prepared(sound, recogniser.sample_rate)
    given, ratio = original, None
    if knowledge != "none":
        steps = STEPS[method]
        attack = WaveformPGD(
            snr_db=snr_db, steps=steps, step=1.0 if steps == 1 else WaveformPGD.step
        )
        with torch.no_grad():
            answer = classes_of(bare(original))
        target = bare if knowledge == "oblivious" else expected(purifier, bare)
        given = attack(target, original, answer)
        ratio = float(signal_to_noise_ratio(original, given))
    with torch.no_grad():
        purified = purifier(given)
        return Trial(
            knowledge=knowledge,
            given=_heard(models, bare, given),
            purified=_heard(models, bare, purified),
            residual=residual(models, given, purified),
            snr_db=ratio if ratio is not None and np.isfinite(ratio) else None,
        )


def front(models: Models) -> nn.Module:
    """Return what purifies sound (1, T) as the service does, differentiably."""
    purifier, rate = models.purifier, models.recogniser.sample_rate
    if isinstance(purifier, Purifier):
        return SoundPurifier(purifier, rate)
    generator = torch.Generator()
    generator.seed()  # no draw that anybody foresees
    return NoiseWiener(purifier.snr_db, generator, rate)


def expected(purifier: nn.Module, bare: nn.Module) -> nn.Module:
    """Return what an attacker who knows both attacks: the mean over draws of a random purifier."""
    whole = nn.Sequential(purifier, bare)
    return ExpectationOverDraws(whole, DRAWS) if isinstance(purifier, NoiseWiener) else whole


def residual(models: Models, given: Tensor, purified: Tensor) -> float:
    """Return how far purification moves the log-Mel of a sound (1, T), as of a classification."""
    logmel = models.recogniser.logmel
    if isinstance(models.purifier, Purifier):
        return float(Detector(models.purifier)(logmel(given)))
    return float((logmel(given) - logmel(purified)).abs().mean())


def prepared(sound: Decoded, rate: int) -> Tensor:
    """Return (1, T) samples of 16 bits at a rate in Hz.

    Attacks count in steps of 16 bits, and a WAV file is what a page plays.

    Raises:
        Refusal: The sound is silent or beyond full scale.
    """
    samples = sound.samples.mean(axis=1)
    peak = float(np.abs(sound.samples).max())
    if peak > IN_RANGE and sound.container not in OVERSHOOTING:
        raise Refusal(422, "too_loud", f"The sound {beyond_full_scale(peak)}.")
    if sound.rate != rate:
        samples = soxr.resample(samples, sound.rate, rate, quality="HQ")
    # Decoding and resampling overshoot.
    kept = limited(np.array(samples, dtype=np.float32), rate)
    made = into_16_bit(torch.from_numpy(kept).unsqueeze(0))
    if is_silent(made.numpy()):
        raise silent()
    return made


def _heard(models: Models, bare: nn.Module, sound: Tensor) -> Heard:
    """Return what is heard of a sound (1, T) of 16 bits."""
    settings = models.recogniser.front_end.logmel
    logits = bare(sound)
    classes_of(logits)  # NaN is no answer
    file = encoded(sound[0].numpy()[:, None], settings.sample_rate, "wav", "PCM_16")
    return Heard(
        **asdict(verdict(models.recogniser.labels, logits.softmax(1)[0])),
        sound=base64.b64encode(file).decode("ascii"),
        spectrogram=spectrogram(LogMel(settings)(sound)[0, 0], settings),
    )


def spectrogram(logmel: Tensor, settings: LogMelSettings) -> Spectrogram:
    """Return a log-Mel (M, F), in the unit of its front-end, as it is sent."""
    tenths = torch.round(10 * settings.db_per_unit * logmel).clamp(-32_768, 32_767)
    data = np.ascontiguousarray(tenths.numpy(), dtype="<i2").tobytes()
    ticks = [hz for hz in TICKS_HZ if settings.f_min <= hz <= settings.f_max]
    return Spectrogram(
        mels=logmel.shape[0],
        frames=logmel.shape[1],
        hop_seconds=settings.hop_seconds,
        ticks=[(hz, bin_at(hz, settings)) for hz in ticks],
        tenths_db=base64.b64encode(data).decode("ascii"),
    )


def bin_at(hz: float, settings: LogMelSettings) -> float:
    """Return where a frequency lies on an axis on which bin k reaches from k to k + 1."""
    low, high, here = (
        hz_to_mel(each, scale=settings.mel_scale) for each in (settings.f_min, settings.f_max, hz)
    )
    edges = (here - low) / (high - low) * (settings.mels + 1)
    # The first filter peaks at edge 1 and is drawn around .5.
    return float(np.clip(edges - 0.5, 0.0, settings.mels))
