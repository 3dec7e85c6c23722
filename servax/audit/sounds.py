"""Sounds to listen to in the report of an audit: clean, attacked through a system, purified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from servax.audit.settings import Audit
from servax.evaluation.engine import front_of, predict, reseed, sounds_of
from servax.evaluation.realisability import realise
from servax.evaluation.systems import System
from servax.purifier import Purifier
from servax.report.audit import Clip


def clips(
    audit: Audit, frame: pd.DataFrame, made: Mapping[str, Tensor], *, count: int
) -> Iterator[Clip]:
    """Yield sounds to listen to: clean, attacked through each system, and purified.

    The utterances are the first that most systems get right and lose under attack. A sound of an
    attacked log-Mel is what a 16-bit file makes of it, and the prediction is that for the file.

    Args:
        audit: Systems, utterances, settings.
        frame: The records.
        made: The inputs that the adaptive PGD made against each system, (N, ...).
        count: Of how many utterances.
    """
    names = list(audit.dataset.corpus.utterances["utterance"])
    for utterance in _telling(frame, made)[:count]:
        position = names.index(utterance)
        yield from of_utterance(audit, position, str(utterance), made)


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
    audit: Audit, position: int, utterance: str, made: Mapping[str, Tensor]
) -> Iterator[Clip]:
    """Yield the sounds of one utterance; arguments as for `clips`."""
    dataset = audit.dataset
    here = slice(position, position + 1)
    by_name = {system.name: system for system in audit.systems}
    if audit.subject.inputs == "logmel":
        _, clean = next(sounds_of(audit.subject, audit.dataset, [position]))
    else:
        clean = dataset.x[here]
    for name, inputs in made.items():
        system = by_name[name]
        reseed(system, audit.settings.seed, "clips", utterance)
        heard, x = clean, inputs[here]
        if audit.subject.inputs == "logmel":
            sound = realise(clean, dataset.x[here], x, *front_of(audit.subject))
            heard, x = sound.waveform, sound.x_again
        else:
            heard = x
        purifier = _purifier_of(system)
        stages = [("clean", clean, dataset.x[here]), ("attacked", heard, x)]
        if purifier is not None:
            cleaned = purifier.purify(heard[0].numpy(), audit.subject.sample_rate)
            stages.append(("purified", torch.from_numpy(cleaned).unsqueeze(0), x))
        for kind, waveform, shown in stages:
            prediction = int(predict(system.model, shown, batch_size=1, names=[utterance])[0])
            yield Clip(
                title=f"{utterance}, {name}",
                utterance=utterance,
                label=dataset.names[int(dataset.y[position])],
                system=name,
                prediction=dataset.names[prediction],
                kind=kind,  # type: ignore[arg-type]
                sample_rate=audit.subject.sample_rate,
                waveform=waveform[0].numpy().astype(np.float32),
            )


def _purifier_of(system: System) -> Purifier | None:
    front = system.front
    if isinstance(front, Purifier):
        return front
    inner = getattr(front, "purifier", None)
    return inner if isinstance(inner, Purifier) else None
