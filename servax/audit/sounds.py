"""Sounds to listen to in the report of an audit: clean, attacked through a system, purified."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from servax.audit.settings import Audit
from servax.evaluation.engine import front_of, predict, reseed, sounds_of
from servax.evaluation.realisability import realise
from servax.evaluation.records import KNOWING
from servax.purifier import Purifier
from servax.report.rendering import Clip, Kind


def clips(
    audit: Audit,
    frame: pd.DataFrame,
    attacks: Collection[str],
    made: Mapping[str, Tensor],
    *,
    count: int,
) -> Iterator[Clip]:
    """Yield sounds to listen to: clean, attacked through each system, and purified.

    The utterances are the first that most systems get right and lose under attack. A sound of an
    attacked log-Mel is what a 16-bit file makes of it, and the prediction is that for the file.

    Args:
        audit: Systems, utterances, settings.
        frame: The records.
        attacks: Names of the attacks that left the inputs.
        made: The inputs that they made against each system, (N, ...).
        count: Of how many utterances.
    """
    right = frame["prediction"] == frame["label"]
    clean = frame[(frame["attack"] == "none") & right]
    known = frame["knowledge"].isin(KNOWING) & frame["attack"].isin(attacks)
    lost = frame[known & ~right & frame["defence"].isin(list(made))]
    both = lost.merge(clean[["utterance", "defence"]]).drop_duplicates(["utterance", "defence"])
    telling = both.groupby("utterance").size().sort_values(ascending=False, kind="stable")
    names = list(audit.dataset.corpus.utterances["utterance"])
    for utterance in telling.index[:count]:
        yield from of_utterance(audit, names.index(utterance), str(utterance), made)


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
        heard = x = inputs[here]
        if audit.subject.inputs == "logmel":
            sound = realise(clean, dataset.x[here], x, *front_of(audit.subject))
            heard, x = sound.waveform, sound.x_again
        stages: list[tuple[Kind, Tensor, Tensor]] = [("clean", clean, dataset.x[here])]
        stages.append(("attacked", heard, x))
        purifier = getattr(system.front, "purifier", system.front)
        if isinstance(purifier, Purifier):
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
                kind=kind,
                sample_rate=audit.subject.sample_rate,
                waveform=waveform[0].numpy().astype(np.float32),
            )
