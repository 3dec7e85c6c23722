"""The realisability gap: is an adversarial log-Mel still adversarial once it is sound?

An attack on the log-Mel moves each cell as it likes, but no sound need have such a log-Mel: frames
overlap, Mel filters overlap, and a file holds 16 bits. So the change is turned back into sound, as
a gain in dB on the short-time spectrum with the phase of the clean sound, written as a 16-bit WAV,
read again, and scored again. What the attack loses on that way is the gap.

The way back is one that an attacker would take first, not the best one: the gap is an upper bound
of what a cleverer inversion leaves. Attacks on the waveform (`servax.attacks.waveform`) have none.

Four parts of a change cannot pass, and are counted as part of the gap: changes of repeated or
filled frames where an utterance is shorter than the classifier's input (a repeated frame takes the
change of its first occurrence, since both are one piece of sound); a change of the level where the
front-end brings each utterance to one level; gains beyond +-20 dB (`LARGEST_GAIN_DB`); and what
would go beyond full scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from servax.errors import ShapeError
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.distortion import largest_change_db, signal_to_noise_ratio
from servax.evaluation.engine import front_of, predict, reseed, sounds_of
from servax.evaluation.metrics import uar
from servax.evaluation.systems import System
from servax.features import (
    FrontEnd,
    FrontEndSettings,
    LogMel,
    Scaling,
    apply_change,
)
from servax.perturbation import into_16_bit


@dataclass(frozen=True, kw_only=True, eq=False)
class Realised:
    """One adversarial log-Mel as sound."""

    waveform: Tensor
    """The sound as read from its 16-bit file, (1, T)."""
    x_again: Tensor
    """Its log-Mel on [0, 1], (1, 1, M, F)."""
    snr_db: float
    """Energy of the clean sound over that of the change, in dB; infinite for no change."""
    log_mel_error_db: float
    """Mean absolute difference between the wanted log-Mel and the reached one, in dB."""
    largest_change_db: float
    """Largest difference of a cell between the reached log-Mel and the clean one, in dB."""


@torch.no_grad()
def realise(
    waveform: Tensor, x: Tensor, x_adv: Tensor, settings: FrontEndSettings, scale: Scaling
) -> Realised:
    """Return the sound of an adversarial log-Mel, and how near its log-Mel comes.

    Args:
        waveform: The clean sound, (T,) or (1, T), more than half a window long.
        x: Its log-Mel on [0, 1], (1, 1, M, F): ``scale(FrontEnd(settings)(waveform))``.
        x_adv: The adversarial one, shape of `x`.
        settings: The front-end that made `x`.
        scale: What mapped its dB to [0, 1].

    Raises:
        ShapeError: The shapes do not belong together, or the sound is too short.
    """
    sound = waveform.reshape(1, -1) if waveform.ndim == 1 else waveform
    s = settings.logmel
    if sound.ndim != 2 or len(sound) != 1 or sound.shape[1] <= s.window_samples // 2:
        raise ShapeError(
            "waveform", waveform.shape, f"(T,) or (1, T) with T > {s.window_samples // 2} samples"
        )
    for name, value in (("x", x), ("x_adv", x_adv)):
        if tuple(value.shape) != (1, 1, s.mels, settings.frames):
            raise ShapeError(name, value.shape, f"(1, 1, {s.mels}, {settings.frames})")
    wanted = scale.inverse(x_adv)
    change = in_frames_of_sound(wanted - scale.inverse(x), 1 + sound.shape[1] // s.hop_samples)
    # One unit of the log-Mel is so many dB of power: 10 log10 of a magnitude is half of its dB.
    halved = s.logarithm == "db" and s.spectrum == "magnitude"
    moved = apply_change(sound, change * (2.0 if halved else s.db_per_unit), LogMel(s))
    written = into_16_bit(moved)
    again = scale(FrontEnd(settings)(written))
    error = (scale.inverse(again) - wanted).abs().mean()
    return Realised(
        waveform=written,
        x_again=again,
        snr_db=float(signal_to_noise_ratio(sound, written)),
        log_mel_error_db=float(error) * s.db_per_unit,
        largest_change_db=float(largest_change_db(x, again, scale)) * s.db_per_unit,
    )


def gaps(
    systems: Sequence[System],
    dataset: EvaluationSet,
    made: Tensor,
    *,
    seed: int,
    batch_size: int = 16,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return what attacked log-Mels are worth once they are sound, a row per system.

    Args:
        systems: Who is scored, all behind one front-end and scale.
        dataset: The utterances.
        made: Their attacked log-Mels (N, 1, M, F).
        seed: Of what a random defence draws.
        batch_size: Utterances scored together.
        tick: Called once per utterance.

    Returns:
        ``defence``, ``uar_logmel`` and ``uar_sound`` (of the attack before and after it became
        sound), ``uar_clean_round_trip`` (the control: the same way without any change), and the
        medians of ratio and error in dB over the utterances that were attacked.
    """
    front_end, scale = front_of(systems[0])
    reached, controls = [], []
    for position, sound in sounds_of(systems[0], dataset, range(len(dataset))):
        here = slice(position, position + 1)
        x = dataset.x[here]
        reached.append(realise(sound, x, made[here], front_end, scale))
        controls.append(realise(sound, x, x, front_end, scale).x_again)
        tick()
    ways = {
        "uar_logmel": made,
        "uar_sound": torch.cat([each.x_again for each in reached]),
        "uar_clean_round_trip": torch.cat(controls),
    }
    moved = (made != dataset.x).flatten(1).any(1).tolist()
    touched = [each for each, attacked in zip(reached, moved, strict=True) if attacked]
    told = []
    for system in systems:
        reseed(system, seed, "sound")
        said = {name: predict(system.model, x, batch_size=batch_size) for name, x in ways.items()}
        told.append(
            {
                "defence": system.name,
                **{name: uar(dataset.y.numpy(), each.numpy()) for name, each in said.items()},
                "median_snr_db": _median([each.snr_db for each in touched]),
                "median_log_mel_error_db": _median([each.log_mel_error_db for each in touched]),
            }
        )
    return told


def _median(values: list[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else None


def in_frames_of_sound(change: Tensor, frames: int) -> Tensor:
    """Return a change of fitted frames (..., M, F) as one of the sound's own, (..., M, frames).

    The reverse of `servax.features.fit_frames`: of a longer sound only the middle changes, of a
    shorter one each frame takes the change of its first occurrence.
    """
    fitted = change.shape[-1]
    if frames <= fitted:
        return change[..., :frames]
    own = change.new_zeros(*change.shape[:-1], frames)
    start = (frames - fitted) // 2
    own[..., start : start + fitted] = change
    return own
