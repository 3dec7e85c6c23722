"""Is it still the same speech? What a front, or an attack, does to what went in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from servax.audit.settings import Audit
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.distortion import ANOTHER, available, mean_change_db, measured
from servax.evaluation.engine import front_of, reseed
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat


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
