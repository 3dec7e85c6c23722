"""From log-Mel to sound: attacks on the waveform, the realisability gap, clips to listen to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import Counting, WaveformPGD
from servax.audit.attacking import Attacked, measures_of, predict, reseed, rows
from servax.audit.scene import Scene
from servax.audit.tiers import EFFORTS
from servax.errors import ServaxError
from servax.evaluation.metrics import uar
from servax.evaluation.realisability import Realised, realise
from servax.evaluation.systems import System
from servax.evaluation.threats import Knowledge, Threat
from servax.features import FrontEnd, FrontEndSettings, Scaling
from servax.features.full_scale import read_in_range
from servax.models import WaveformClassifier
from servax.purifier import Purifier
from servax.report.audit import Clip
from servax.training import generator

WAVEFORM_BOUNDS = (-1.0, 1.0)


def threats(scene: Scene, knowledge: Knowledge) -> list[Threat]:
    """Return the attacks on the sound behind a front-end; none for a model of waveforms."""
    steps = EFFORTS[scene.settings.tier].waveform
    if scene.subject.inputs != "logmel" or not steps:
        return []
    ratio = scene.settings.snr_db
    attack = WaveformPGD(snr_db=ratio, steps=steps)
    return [
        Threat(
            name=f"pgd-waveform-{ratio:g}dB",
            knowledge=knowledge,
            attack=attack,
            # Of the change against the sound, so that larger is stronger as for every attack.
            strength=10.0 ** (-ratio / 20.0),
            gradients=steps,
            waveform=True,
        )
    ]


def attack(
    threat: Threat,
    system: System,
    faced: nn.Module,
    right: Tensor,
    predictions: Tensor,
    scene: Scene,
    *,
    draws: int,
    tick: Callable[[], None],
) -> Attacked:
    """Return what an attack on the sound does to a system of log-Mel, one utterance at a time.

    Sounds have lengths of their own, so they share no batch. What is scored is what a 16-bit file
    of the attacked sound gives.
    """
    material, (front_end, scale) = scene.material, parts(scene)
    chain = nn.Sequential(FrontEnd(front_end), scale)
    counting = Counting(WaveformClassifier(chain, faced).eval())
    scored = WaveformClassifier(chain, system.model).eval()
    found, moved = predictions.clone(), material.x.clone()
    ratios = []
    reseed(system, scene.settings.seed, threat.name)
    for number, (position, sound) in enumerate(waveforms(scene, right.tolist())):
        starts = generator(scene.settings.seed, threat.name, number)
        y = material.y[position : position + 1]
        attacked = threat.attack(counting, sound, y, generator=starts)
        found[position] = predict(scored, attacked, batch_size=1)[0]
        with torch.no_grad():
            moved[position] = chain(attacked)[0]
        noise = float((attacked - sound).square().sum())
        if noise > 0:
            ratios.append(10.0 * float(np.log10(float(sound.square().sum()) / noise)))
        if number % scene.settings.batch_size == 0:
            tick()
    frame = rows(material, scene.identity, system.name, found, threat, threat.strength, draws)
    told = measures_of(counting, len(right), len(ratios))
    if ratios:
        told |= {"median_snr_db": float(np.median(ratios)), "lowest_snr_db": min(ratios)}
    return Attacked(frame, told, moved)


def parts(scene: Scene) -> tuple[FrontEndSettings, Scaling]:
    """Return the front-end and scale of a model of log-Mel."""
    front_end, scale = scene.subject.front_end, scene.subject.scale
    if front_end is None or scale is None:
        raise ServaxError(f"{scene.subject.name}: takes no log-Mel, so there is no front-end.")
    return front_end, scale


def waveforms(scene: Scene, positions: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield position and sound (1, T) of the utterances at `positions`, as long as they are."""
    stretches = scene.material.corpus.stretches
    for position in positions:
        _, path, start, end = stretches[position]
        rate = scene.subject.sample_rate
        sound = read_in_range(path, sample_rate=rate, start=start, end=end)
        # The largest number of 16 bits lies one step below 1.
        yield position, torch.from_numpy(sound).clamp(max=1.0 - 2.0**-15).unsqueeze(0)


def gaps(
    scene: Scene, systems: Sequence[System], made: Tensor, *, tick: Callable[[], None]
) -> list[dict[str, Any]]:
    """Return what attacked log-Mels are worth once they are sound, a row per system.

    Args:
        scene: Systems, utterances, settings.
        systems: Who is scored.
        made: The attacked log-Mels (N, 1, M, F).
        tick: Called once per utterance.
    """
    material, size = scene.material, scene.settings.batch_size
    sounds, controls = [], []
    for position, sound in waveforms(scene, range(len(material))):
        sounds.append(_realised(scene, position, sound, made))
        controls.append(_realised(scene, position, sound, material.x).x_again)
        tick()
    again, control = torch.cat([s.x_again for s in sounds]), torch.cat(controls)
    touched = [s for s, x, z in zip(sounds, material.x, made, strict=True) if bool((x != z).any())]
    told = []
    for system in systems:
        reseed(system, scene.settings.seed, "sound")
        scores = [
            uar(material.y.numpy(), predict(system.model, x, batch_size=size).numpy())
            for x in (made, again, control)
        ]
        told.append(
            {
                "defence": system.name,
                "uar_logmel": scores[0],
                "uar_sound": scores[1],
                "uar_clean_round_trip": scores[2],
                "median_snr_db": _median([s.snr_db for s in touched]),
                "median_log_mel_error_db": _median([s.log_mel_error_db for s in touched]),
            }
        )
    return told


def _realised(scene: Scene, position: int, sound: Tensor, made: Tensor) -> Realised:
    front_end, scale = parts(scene)
    here = slice(position, position + 1)
    with torch.no_grad():
        return realise(sound, scene.material.x[here], made[here], front_end, scale)


def _median(values: list[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else None


def clips(
    scene: Scene, frame: pd.DataFrame, made: Mapping[str, Tensor], *, count: int
) -> Iterator[Clip]:
    """Yield sounds to listen to: clean, attacked through each system, and purified.

    The utterances are the first that most systems get right and lose under attack. A sound of an
    attacked log-Mel is what a 16-bit file makes of it, and the prediction is that for the file.

    Args:
        scene: Systems, utterances, settings.
        frame: The records.
        made: The inputs that the adaptive PGD made against each system, (N, ...).
        count: Of how many utterances.
    """
    names = list(scene.material.corpus.utterances["utterance"])
    for utterance in _telling(frame, made)[:count]:
        position = names.index(utterance)
        yield from of_utterance(scene, position, str(utterance), made)


def _telling(frame: pd.DataFrame, made: Mapping[str, Tensor]) -> list[str]:
    """Return utterances, those first that the most systems lose under attack."""
    right = frame["prediction"] == frame["label"]
    clean = frame[(frame["attack"] == "none") & right]
    lost = frame[
        frame["attack"].isin(["pgd", "pgd-15"])
        & frame["knowledge"].isin(["adaptive", "bpda"])
        & ~right
    ]
    both = lost.merge(clean[["utterance", "defence"]], on=["utterance", "defence"])
    both = both[both["defence"].isin(list(made))].drop_duplicates(["utterance", "defence"])
    counts = both.groupby("utterance").size().sort_values(ascending=False, kind="stable")
    return [str(name) for name in counts.index]


def of_utterance(
    scene: Scene, position: int, utterance: str, made: Mapping[str, Tensor]
) -> Iterator[Clip]:
    """Yield the sounds of one utterance; arguments as for `clips`."""
    material = scene.material
    here = slice(position, position + 1)
    by_name = {system.name: system for system in scene.systems}
    if scene.subject.inputs == "logmel":
        _, clean = next(waveforms(scene, [position]))
    else:
        clean = material.x[here]
    for name, inputs in made.items():
        system = by_name[name]
        reseed(system, scene.settings.seed, "clips", utterance)
        heard, x = clean, inputs[here]
        if scene.subject.inputs == "logmel":
            sound = _realised(scene, position, clean, inputs)
            heard, x = sound.waveform, sound.x_again
        else:
            heard = x
        purifier = _purifier_of(system)
        stages = [("clean", clean, material.x[here]), ("attacked", heard, x)]
        if purifier is not None:
            cleaned = purifier.purify(heard[0].numpy(), scene.subject.sample_rate)
            stages.append(("purified", torch.from_numpy(cleaned).unsqueeze(0), x))
        for kind, waveform, shown in stages:
            prediction = int(predict(system.model, shown, batch_size=1, names=[utterance])[0])
            yield Clip(
                title=f"{utterance}, {name}",
                utterance=utterance,
                label=material.names[int(material.y[position])],
                system=name,
                prediction=material.names[prediction],
                kind=kind,  # type: ignore[arg-type]
                sample_rate=scene.subject.sample_rate,
                waveform=waveform[0].numpy().astype(np.float32),
            )


def _purifier_of(system: System) -> Purifier | None:
    front = system.front
    if isinstance(front, Purifier):
        return front
    inner = getattr(front, "purifier", None)
    return inner if isinstance(inner, Purifier) else None
