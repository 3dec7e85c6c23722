"""What attacked inputs sound like: is it still the same speech, and sounds to listen to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from servax.audit.settings import Audit
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.distortion import ANOTHER, available, mean_change_db, measured
from servax.evaluation.engine import front_of, predict, reseed, sounds_of
from servax.evaluation.realisability import realise
from servax.evaluation.records import KNOWING, UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.purifier import Purifier
from servax.report.rendering import Clip, Kind


@torch.no_grad()
def changes(
    audit: Audit,
    system: System,
    made: Sequence[tuple[Threat, Tensor]],
    *,
    tick: Callable[[], None],
) -> list[dict[str, Any]]:
    """Return what becomes of clean and attacked speech before the model hears it.

    All is compared with the clean input: a purifier of attacked speech should lead back to it.

    Args:
        audit: Systems, utterances, settings; the first `speech` utterances are taken.
        system: One with a front, or the bare model, before which the attack alone counts.
        made: Each threat with the inputs (N, ...) that it made.
        tick: Called once for the clean inputs, and once per threat.

    Returns:
        A row for each of them, and for the bare model one of `ANOTHER` clip in place of each:
        `defence`, `attack`, `knowledge`, `utterances` and the median of each measure over those
        of which it can be told; none where that is not one, or the median is infinite.
    """
    count = audit.settings.speech
    x, size = audit.dataset.x[:count], audit.settings.batch_size
    front = system.front or torch.nn.Identity()
    reseed(system, audit.settings.seed, "speech")
    rows = []
    for threat, inputs in [(None, x), *((threat, each[:count]) for threat, each in made)]:
        told = (threat.name, threat.knowledge) if threat else ("none", "none")
        found = torch.cat([front(part) for part in torch.split(inputs, size)])
        rows.append(_row(audit, system.name, *told, x, found))
        tick()
    if system.name == UNDEFENDED:
        pairs = np.array(list(of_the_class(audit.dataset, len(x))), dtype=int).reshape(-1, 2)
        if len(pairs):
            clean, other = audit.dataset.x[pairs[:, 0]], audit.dataset.x[pairs[:, 1]]
            rows.append(_row(audit, ANOTHER, "none", "none", clean, other))
    return rows


def _row(
    audit: Audit, name: str, attack: str, knowledge: str, x: Tensor, found: Tensor
) -> dict[str, Any]:
    if audit.subject.inputs == "logmel":
        change = mean_change_db(x, found, front_of(audit.subject)[1])
        values = {"log_mel_distance_db": change.numpy()}
    else:
        each = list(measured(x, found, audit.subject.sample_rate, available()))
        values = {name: np.array([one[name] for one in each]) for name in available()}
    medians = {name: float(pd.Series(column).median()) for name, column in values.items()}
    told = {name: value if np.isfinite(value) else None for name, value in medians.items()}
    who = {"defence": name, "attack": attack, "knowledge": knowledge, "utterances": len(x)}
    return who | told


def of_the_class(dataset: EvaluationSet, count: int) -> Iterator[tuple[int, int]]:
    """Yield the first `count` utterances, each with the next of its class by another speaker."""
    speakers, y = list(dataset.corpus.utterances["speaker"]), dataset.y.tolist()
    for here in range(count):
        for there in (*range(here + 1, len(y)), *range(here)):
            if y[there] == y[here] and speakers[there] != speakers[here]:
                yield here, there
                break


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
