"""One threat against the systems of an audit: predictions, how far the inputs moved, what it took.

An utterance that a system gets wrong without any attack is not attacked: it keeps its prediction
and costs nothing. The others are packed into full batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import Counting
from servax.attacks.fast import with_gradients
from servax.attacks.problem import logits_of
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.evaluation.protocol import Condition, Identity, identified, prediction_rows
from servax.evaluation.systems import System
from servax.evaluation.threats import CLEAN, Threat
from servax.models import classes_of
from servax.training import Precision, generator

Tick = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Attacked:
    """What a threat came to."""

    frame: pd.DataFrame
    """Records: one row per utterance, system and strength."""
    measures: dict[str, Any]
    """Gradients and queries per attacked utterance, distances and SNR."""
    inputs: Tensor
    """The inputs at the last strength, shape of the material's x."""


def clean(
    systems: Sequence[System],
    material: EvaluationSet,
    identity: Identity,
    *,
    batch_size: int,
    tick: Tick,
) -> pd.DataFrame:
    """Return the records of the inputs as they are, for every system."""
    frames, names = [], material.utterances
    for system in systems:
        reseed(system, identity.seed, "clean")
        predictions = predict(
            system.model, material.x, batch_size=batch_size, tick=tick, names=names
        )
        frames.append(rows(material, identity, system.name, predictions))
    return pd.concat(frames, ignore_index=True)


def attack_source(
    threat: Threat,
    source: nn.Module,
    systems: Sequence[System],
    material: EvaluationSet,
    identity: Identity,
    *,
    batch_size: int,
    tick: Tick,
    gradients: Precision = "float32",
) -> Attacked:
    """Return what inputs made against `source` do to every system (oblivious, transfer).

    All utterances are attacked, and to the end: what the source gets wrong another model may not.
    A system whose own model is the source meets an attacker who knows it: its rows say so.
    """
    moved = {strength: material.x.clone() for strength in threat.sweep or (threat.strength,)}
    counting = Counting(with_gradients(source, gradients))
    for number, positions in enumerate(_batches(torch.arange(len(material)), batch_size)):
        draws = generator(identity.seed, threat.name, threat.knowledge, number)
        for strength, found in _run(threat, counting, material, positions, draws):
            moved[strength][positions] = found
        tick()
    frames = []
    for strength, x in moved.items():
        for system in systems:
            reseed(system, identity.seed, threat.name)
            names = material.utterances
            predictions = predict(system.model, x, batch_size=batch_size, names=names)
            met = replace(threat, knowledge="adaptive") if system.model is source else threat
            frames.append(rows(material, identity, system.name, predictions, met, strength))
    measures = _measures(threat, material, moved[threat.strength], counting, len(material))
    frame = pd.concat(frames, ignore_index=True)
    return Attacked(frame, measures, moved[threat.strength])


def attack_system(
    threat: Threat,
    system: System,
    attacked: nn.Module,
    right: Tensor,
    predictions: Tensor,
    material: EvaluationSet,
    identity: Identity,
    *,
    batch_size: int,
    tick: Tick,
    gradients: Precision = "float32",
    draws: int = 1,
) -> Attacked:
    """Return what an attack through one system does to it.

    Args:
        threat: What is done.
        system: Who is scored.
        attacked: What the attacker differentiates or asks: the system, its BPDA twin, its mean over
            draws, or the system behind its front-end.
        right: Positions of the utterances it gets right without attack.
        predictions: What it predicts for all of them without attack, (N,).
        material: The utterances.
        identity: What is the same in every row.
        batch_size: Utterances attacked together.
        tick: Called once per batch.
        gradients: In which precision they are computed.
        draws: Draws whose mean is one gradient of `attacked`.
    """
    strengths = threat.sweep or (threat.strength,)
    moved = {strength: material.x.clone() for strength in strengths}
    wrong = {strength: predictions.clone() for strength in strengths}
    counting = Counting(with_gradients(attacked, gradients))
    reseed(system, identity.seed, threat.name)
    for number, positions in enumerate(_batches(right, batch_size)):
        starts = generator(identity.seed, threat.name, threat.knowledge, number)
        for strength, found in _run(threat, counting, material, positions, starts):
            moved[strength][positions] = found
            names = [material.utterances[i] for i in positions.tolist()]
            wrong[strength][positions] = predict(
                system.model, found, batch_size=batch_size, names=names
            )
        tick()
    frames = [
        rows(material, identity, system.name, wrong[strength], threat, strength, draws)
        for strength in strengths
    ]
    measures = _measures(threat, material, moved[threat.strength], counting, len(right))
    if threat.towards and len(right):
        led = wrong[threat.strength][right] == material.number(threat.towards)
        measures |= {"towards": threat.towards, "success_rate": float(led.float().mean())}
    frame = pd.concat(frames, ignore_index=True)
    return Attacked(frame, measures, moved[threat.strength])


def _run(
    threat: Threat,
    model: nn.Module,
    material: EvaluationSet,
    positions: Tensor,
    draws: torch.Generator,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (strength, inputs) of one batch."""
    x, y = material.x[positions], material.y[positions]
    if threat.towards:
        y = torch.full_like(y, material.number(threat.towards))
    mask = None if material.mask is None else material.mask[positions]
    if threat.sweep:
        yield from threat.attack.sweep(model, x, y, threat.sweep, generator=draws, mask=mask)
    else:
        yield threat.strength, threat.attack(model, x, y, generator=draws, mask=mask)


@torch.no_grad()
def predict(
    model: nn.Module,
    x: Tensor,
    *,
    batch_size: int,
    tick: Tick | None = None,
    names: Sequence[str] = (),
) -> Tensor:
    """Return the predicted classes (N,) of inputs (N, ...).

    Raises:
        ServaxError: An answer is NaN or infinite; of `names` (N,) the utterance is told.
    """
    found = []
    for first, part in zip(range(0, len(x), batch_size), torch.split(x, batch_size), strict=True):
        found.append(classes_of(logits_of(model, part), names[first : first + batch_size]))
        if tick:
            tick()
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def rows(
    material: EvaluationSet,
    identity: Identity,
    system: str,
    predictions: Tensor,
    threat: Threat | None = None,
    strength: float = 0.0,
    draws: int = 1,
) -> pd.DataFrame:
    """Return the records of one system under one condition; without a threat, of clean input."""
    space = "logmel" if material.x.ndim == 4 else "waveform"
    condition = Condition(system, "none", 0.0, "none", CLEAN | {"space": space})
    if threat:
        told = threat.told(strength, space=space, draws=draws)
        condition = Condition(system, threat.name, strength, threat.knowledge, told)
    names = np.array(material.names, dtype=object)[predictions.numpy()]
    found = prediction_rows(material.corpus.utterances, names, condition)
    return identified(found, identity, material.corpus.name)


def reseed(system: System, seed: int, *purpose: str) -> None:
    """Start the draws of a random defence anew, so that a stage alone decides its numbers."""
    for module in system.model.modules():
        drawing = getattr(module, "generator", None)
        if isinstance(drawing, torch.Generator):
            drawing.manual_seed(generator(seed, "defence", system.name, *purpose).initial_seed())


def _batches(positions: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the positions, `size` at a time."""
    if len(positions):
        yield from torch.split(positions, size)


def measures_of(counting: Counting, attacked: int, moved: int) -> dict[str, Any]:
    """Return what an attack took: gradients and queries for each attacked utterance."""
    return {
        "gradients_per_utterance": round(counting.backward_rows / max(1, attacked), 2),
        "queries_per_utterance": round(counting.forward_rows / max(1, attacked), 2),
        "attacked": attacked,
        "moved": moved,
    }


def _measures(
    threat: Threat, material: EvaluationSet, moved: Tensor, counting: Counting, count: int
) -> dict[str, Any]:
    """Return how far the inputs moved, and what it took."""
    change = moved - material.x
    touched = change.flatten(1).abs().amax(1) > 0
    found = measures_of(counting, count, int(touched.sum()))
    if bool(touched.any()):
        ratio = signal_to_noise_ratio(material.x[touched], moved[touched])
        ball = threat.attack.ball_around(material.x[touched])
        found["median_distance"] = float(ball.norm(change[touched]).median())
        found["median_snr_db"] = float(ratio.median())
        found["lowest_snr_db"] = float(ratio.min())
    return found
