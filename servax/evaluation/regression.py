"""Models that answer in numbers (arousal, dominance, valence) under attack: a rise of the error.

Such a model is attacked as a classifier of two classes, near to what is true and far from it. With
e the mean squared error over the dimensions the log-odds of near are 1 / (1 + e): they fall as e
rises and never reach zero. So an attack on near raises the squared error to its end, and each
attack works on it as it is, whether it takes gradients or only asks. Who wants one dimension up or
down has the distance d that it went that way in place of the error: 1 / (1 + exp(d)) falls with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import APGD, NES, PGD, RandomNoise, Square, logits_of
from servax.corpora import Corpus
from servax.defences import Bpda, Defended, ExpectationOverDraws
from servax.evaluation.engine import FEW, as_heard, reseed
from servax.evaluation.records import UNDEFENDED, WORST_CASE
from servax.evaluation.statistics import SpeakerDraws, interval_of
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.evaluation.trial import repeats
from servax.models import check_finite
from servax.training import generator

ATTACKS = (RandomNoise, Square, NES, PGD, APGD)
"""What raises a loss; the others lead to a class or look for a border between two."""
DRAWS = 8
"""Draws of a random system whose mean is one answer or gradient of the attacker."""
WAYS = {"up": 1.0, "down": -1.0}
"""Where a dimension can be pushed."""
CONDITION = ["defence", "attack", "knowledge", "strength"]


class Nearness(nn.Module):
    """Maps inputs (B, ...) to logits (B, 2): near to the truth, and far from it.

    Args:
        model: From inputs to numbers (B, D).
        truth: What one utterance is, (D,).
        way: Where it is pushed from there, (D,); by default away, wherever that leads.
    """

    truth: Tensor
    way: Tensor | None

    def __init__(self, model: nn.Module, truth: Tensor, way: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("truth", truth)
        self.register_buffer("way", way)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        gone = logits_of(self.model, x) - self.truth
        if self.way is None:
            near = 1.0 / (1.0 + gone.square().mean(dim=1))
        else:
            near = (-(gone @ self.way)).sigmoid()
        return torch.stack([near, torch.zeros_like(near)], dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spoken:
    """The utterances under attack."""

    corpus: Corpus
    """Who speaks."""
    x: Tensor
    """Inputs of the model, (N, ...)."""
    truth: Tensor
    """What they are, (N, D)."""
    names: tuple[str, ...]
    """Of the dimensions."""
    seed: int = 0
    """Of what attacks draw."""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def utterances(self) -> list[str]:
        """What they are called."""
        return list(self.corpus.utterances["utterance"])

    def rows(
        self, answers: Tensor, defence: str, threat: Threat | None = None, strength: float = 0.0
    ) -> pd.DataFrame:
        """Return one row per utterance: what a system answers (N, D) under one condition."""
        frame = self.corpus.utterances[["utterance", "speaker"]].reset_index(drop=True)
        told = threat.name if threat else "none", threat.knowledge if threat else "none"
        frame = frame.assign(defence=defence, attack=told[0], knowledge=told[1], strength=strength)
        truth = {f"true {n}": self.truth[:, i].numpy() for i, n in enumerate(self.names)}
        return frame.assign(**{n: answers[:, i].numpy() for i, n in enumerate(self.names)}, **truth)


def suited(threats: Sequence[Threat], system: System, bare: System) -> Iterator[Threat]:
    """Yield the threats that go through a system and can raise an error.

    PGD starts somewhere in its ball: where the answer itself is the truth, the gradient at the
    input is zero. The margin of `Nearness` keeps all digits of 1 / (1 + e); cross-entropy adds it
    to log 2, and in float32 loses those of a large error. Nearness is never fooled, so none of its
    attacks could stop early. An attack towards a dimension becomes one up and one down.

    Args:
        threats: What might be done.
        system: Who is attacked.
        bare: The model without a defence: BPDA takes its gradients alone.
    """
    through = {
        "black_box": True,
        "adaptive": system.gradients,
        "oblivious": system.gradients and system.name == UNDEFENDED,
        "bpda": bare.gradients and system.bridgeable,
    }
    for each in threats:
        other = each.random_only or each.waveform
        possible = through.get(each.knowledge) or each.surrogate == system.name
        if type(each.attack) not in ATTACKS or other or not possible:
            continue
        if isinstance(each.attack, PGD | APGD):
            settings: dict[str, Any] = {"random_start": True, "early_stop": False}
            raised = replace(each.attack, **settings, loss="margin", targeted=False)
            each = replace(each, attack=raised)
        if not system.exact and each.knowledge == "adaptive":
            each = replace(each, knowledge="bpda")
        for way in WAYS if each.towards else ():
            yield replace(each, name=f"{each.name}-{way}", towards=f"{way} {each.towards}")
        if not each.towards:
            yield each


@torch.no_grad()
def answers(
    system: System, x: Tensor, *purpose: str, names: Sequence[str], seed: int = 0, size: int = 16
) -> Tensor:
    """Return what a system answers (N, D) to inputs (N, ...), its draws decided by a purpose.

    Raises:
        ServaxError: An answer is NaN or infinite; of `names` (N,) the utterance is told.
    """
    reseed(system, seed, *purpose)
    found = []
    for first, part in zip(range(0, len(x), size), torch.split(x, size), strict=True):
        found.append(logits_of(system.model, part))
        largest = found[-1].abs().amax(dim=1)
        check_finite(largest, "numbers", names[first : first + size])
    return torch.cat(found)


def attacked(
    threat: Threat,
    source: System,
    systems: Sequence[System],
    heard: Spoken,
    tick: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Return what systems answer to inputs that an attacker made on one of them.

    Args:
        threat: What is done, one of `suited`.
        source: What the attacker differentiates or asks.
        systems: Who answers.
        heard: The utterances, attacked one at a time.
        tick: Called after each.

    Raises:
        ServaxError: An answer is NaN or infinite.
    """
    model = source.model
    if threat.knowledge == "bpda" and source.bridgeable and isinstance(model, Defended):
        model = Bpda(model.model, model.defence).eval()
    random = repeats(model, heard.x[:FEW]).random
    found: dict[float, list[Tensor]] = {strength: [] for strength in threat.strengths}
    reseed(source, heard.seed, "source", threat.name, threat.knowledge)
    for number, (x, truth) in enumerate(zip(heard.x, heard.truth, strict=True)):
        near: nn.Module = Nearness(model, truth).eval()
        if threat.towards:
            way, _, dimension = threat.towards.partition(" ")
            pushed = WAYS[way] * torch.tensor([float(n == dimension) for n in heard.names])
            with torch.no_grad():  # from where it is: far from there the slope would vanish
                near = Nearness(model, logits_of(model, x[None])[0], pushed.to(truth)).eval()
        if random:
            near = ExpectationOverDraws(near, DRAWS, "logits").eval()
        draws = generator(heard.seed, threat.name, threat.knowledge, number)
        y = torch.zeros(1, dtype=torch.int64)
        for strength, moved in threat.moved(near, x[None], y, generator=draws):
            if strength in found:
                found[strength].append(as_heard(moved.detach(), source.inputs))
        tick()
    purpose = (threat.name, threat.knowledge)
    told: dict[str, Any] = {"seed": heard.seed, "names": heard.utterances}
    # Nothing stands before the source: who attacks it knows it.
    known = replace(threat, knowledge="adaptive" if source.exact else "bpda", surrogate="")
    frames = [
        heard.rows(
            answers(system, torch.cat(moved), *purpose, **told),
            system.name,
            known if threat.knowledge == "oblivious" and system is source else threat,
            strength,
        )
        for strength, moved in found.items()
        for system in systems
    ]
    return pd.concat(frames, ignore_index=True)


def concordance(
    truth: np.ndarray, answers: np.ndarray, mean: Callable[[np.ndarray], Any] = np.mean
) -> Any:
    """Return the concordance correlation coefficient (Lin 1989) of two rows of numbers (N,).

    Twice the covariance, over both variances and the squared difference of the means; NaN where
    nothing varies and the means agree.

    Args:
        truth: The one.
        answers: The other.
        mean: Of a row of numbers (N,): over all of it, or one for each of several draws from it.
    """
    x, y = truth - truth.mean(), answers - truth.mean()  # so that squares keep their digits
    below = np.asarray(mean(x * x) + mean(y * y) - 2.0 * mean(x) * mean(y))
    above = 2.0 * (mean(x * y) - mean(x) * mean(y))
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)[()]


def measured(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return squared error and concordance of each condition, and of the worst of all per system.

    Args:
        frame: Rows of `Spoken.rows`.
        names: Of the dimensions.

    Returns:
        Columns of `CONDITION`, ``squared error`` (mean over utterances and dimensions) and of each
        dimension ``CCC`` and ``moved``, the mean way from the answers without attack. Beside the
        error and each CCC stand ``, low`` and ``, high`` (95 % over speakers; NaN of too few). The
        worst case takes of each utterance the answer of largest error.
    """
    truth = frame[[f"true {name}" for name in names]].to_numpy()
    squares = np.square(frame[list(names)].to_numpy() - truth).mean(axis=1)
    keys = ["defence", "utterance"]
    clean = frame[frame["attack"] == "none"].set_index(keys)[list(names)]
    moved = frame[list(names)] - clean.loc[list(map(tuple, frame[keys].to_numpy()))].to_numpy()
    frame = frame.assign(**{"squared error": squares}, **moved.add_prefix("moved "))
    worst = frame.loc[frame.groupby(["defence", "utterance"])["squared error"].idxmax()]
    worst = worst.assign(attack=WORST_CASE, knowledge="all", strength=frame["strength"].max())
    found: list[dict[str, Any]] = []
    for key, part in pd.concat([frame, worst]).groupby(CONDITION, sort=False):
        draws = SpeakerDraws.of(part["speaker"])
        error = part["squared error"].to_numpy()
        told = _told("squared error", lambda mean, error=error: mean(error), draws)
        for name in names:
            both = part[f"true {name}"].to_numpy(), part[name].to_numpy()
            told |= _told(f"CCC {name}", partial(concordance, *both), draws)
        told |= {f"moved {name}": part[f"moved {name}"].mean() for name in names}
        found.append(dict(zip(CONDITION, key, strict=True)) | told)
    systems = list(dict.fromkeys(frame["defence"]))
    return pd.DataFrame(found).sort_values(
        "defence", key=lambda names: names.map(systems.index), kind="stable", ignore_index=True
    )


def _told(name: str, statistic: Callable[..., Any], draws: SpeakerDraws | None) -> dict[str, float]:
    """Return a statistic, a function of how means are taken, and the ends of its interval."""
    ends = (np.nan, np.nan) if draws is None else interval_of(statistic(draws.means))
    return {name: float(statistic(np.mean)), f"{name}, low": ends[0], f"{name}, high": ends[1]}
