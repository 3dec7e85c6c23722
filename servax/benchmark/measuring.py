"""From a recogniser and defences to records, and the sample that a test measures again.

Oblivious attacks run once per recogniser and serve all defences (`servax.evaluation.protocol`).
The adaptive attacker takes exact gradients through each defence (the identity for one without
any), from several random starts, on some of the utterances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from servax.attacks import PGD, Restarts
from servax.attacks.problem import logits_of
from servax.benchmark.figures import adaptive_name, percent
from servax.benchmark.record import Protocol, Record, Sample
from servax.benchmark.systems import Subject, build_defence, part, subject_of
from servax.corpora import Corpus
from servax.errors import SettingError
from servax.evaluation.dataset import chosen
from servax.evaluation.grid import AttackGrid
from servax.evaluation.protocol import (
    OBLIVIOUS,
    UNDEFENDED,
    Condition,
    Defence,
    Identity,
    Tick,
    identified,
    oblivious,
    oblivious_ticks,
    prediction_rows,
)
from servax.evaluation.records import validate
from servax.evaluation.threats import attack_columns
from servax.features import Dataset
from servax.models import classes_of
from servax.training import Compute, generator

__all__ = ["Attacker", "adaptive_records", "count_ticks", "measure", "oblivious_records", "sample"]

BATCH = 16
SAMPLE_EPSILON, SAMPLE_STEPS = 0.009, 9
CPU = Compute("cpu")


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """How hard the adaptive attacker tries."""

    radii: tuple[float, ...] = (0.005, 0.02)
    """Of the balls, on the [0, 1] scale; a step is a quarter of each."""
    steps: int = 100
    """Steps of each start."""
    restarts: int = 5
    """Random starts."""
    utterances: int = 48
    """How many of each group are attacked, classes and speakers in equal shares."""

    def __post_init__(self) -> None:
        if not self.radii or self.utterances < 1:
            told = (self.radii, self.utterances)
            raise SettingError("radii, utterances", told, "at least one of each")
        for radius in self.radii:
            self.attack(radius)

    def attack(self, radius: float) -> Restarts:
        """Return the attack of one radius."""
        pgd = PGD(
            step=radius / 4, epsilon=radius, steps=self.steps, random_start=True, early_stop=True
        )
        return Restarts(pgd, self.restarts)


def measure(
    subject: Subject,
    defences: Mapping[str, Mapping[int, Defence]],
    protocol: Protocol,
    attacker: Attacker,
    *,
    tick: Tick | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the records of each defence of one recogniser, those of the bare one among them.

    Args:
        subject: The recogniser with its utterances.
        defences: By name and by seed of their training; ``undefended`` has no module and asks for
            the bare recogniser's own records.
        protocol: The oblivious attacks.
        attacker: The adaptive ones.
        tick: Called now and then, `count_ticks` times in all.

    Returns:
        By name: rows of the defence and of the bare recogniser, the latter once per seed.
    """
    found = {
        name: [frame]
        for name, frame in oblivious_records(subject, defences, protocol, tick).items()
    }
    bare = {UNDEFENDED: {0: None}} if UNDEFENDED in defences else {}
    for name, seeds in {**defences, **bare}.items():
        for seed, module in seeds.items():
            identity = Identity(subject.name, subject.group, seed)
            found[name].append(
                adaptive_records(subject, name, module, attacker, identity, tick=tick)
            )
    return {name: validate(pd.concat(frames, ignore_index=True)) for name, frames in found.items()}


def count_ticks(count: int, seeds: int, protocol: Protocol, attacker: Attacker) -> int:
    """Return how often `measure` ticks for `count` utterances and `seeds` modules in all."""
    grid = protocol.grid()
    batches = -(-min(count, attacker.utterances) // BATCH)
    return sum(oblivious_ticks(attack, count, grid, BATCH) for attack in OBLIVIOUS) + (
        seeds * batches * len(attacker.radii)
    )


def oblivious_records(
    subject: Subject,
    defences: Mapping[str, Mapping[int, Defence]],
    protocol: Protocol,
    tick: Tick | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the records of the oblivious grid by defence; arguments as `measure`."""
    modules = {
        f"{name}@{seed}": defence
        for name, seeds in defences.items()
        for seed, defence in seeds.items()
        if name != UNDEFENDED
    }
    identity = Identity(subject.name, subject.group, 0)
    rows = pd.concat(
        [
            oblivious(
                attack,
                subject.network,
                modules,
                subject.test,
                protocol.grid(),
                identity,
                batch_size=BATCH,
                compute=CPU,
                tick=tick,
            )
            for attack in OBLIVIOUS
        ],
        ignore_index=True,
    )
    bare = rows[rows["defence"] == UNDEFENDED]
    found = {UNDEFENDED: bare} if UNDEFENDED in defences else {}
    for name, seeds in defences.items():
        if name == UNDEFENDED:
            continue
        parts = []
        for seed in seeds:
            own = rows[rows["defence"] == f"{name}@{seed}"]
            parts += [own.assign(defence=name, seed=seed), bare.assign(seed=seed)]
        found[name] = pd.concat(parts, ignore_index=True)
    return found


def adaptive_records(
    subject: Subject,
    name: str,
    defence: Defence | None,
    attacker: Attacker,
    identity: Identity,
    *,
    tick: Tick | None = None,
) -> pd.DataFrame:
    """Return what the adaptive attacker leaves of one system, on the utterances they attack."""
    corpus = subject.test.corpus
    test = part(subject, chosen(corpus, attacker.utterances, seed=0))
    model = (defence.defend(subject.network) if defence else subject.network).eval()
    knowledge = defence.knowledge if defence else "adaptive"
    frames = []
    for radius in attacker.radii:
        attack = attacker.attack(radius)
        called = adaptive_name(attacker.steps, attacker.restarts)
        condition = Condition(name, called, radius, knowledge, attack_columns(attack, radius))
        predictions = _attacked(model, test, attack, identity, tick)
        frames.append(prediction_rows(test.corpus.utterances, predictions, condition))
    return identified(pd.concat(frames, ignore_index=True), identity, corpus.name)


def _attacked(
    model: nn.Module, test: Dataset, attack: Restarts, identity: Identity, tick: Tick | None
) -> NDArray[np.object_]:
    """Return the names (N,) of the classes predicted under an attack."""
    found = []
    for number, batch in enumerate(test.batches(BATCH)):
        draws = generator(identity.seed, "benchmark", identity.fold, number)
        x = attack(model, batch.x, batch.y, generator=draws)
        with torch.no_grad():
            heard = test.corpus.utterances["utterance"].iloc[batch.positions].tolist()
            found.append(classes_of(logits_of(model, x), heard).numpy())
        if tick:
            tick()
    names: NDArray[np.object_] = np.array(test.corpus.labels, dtype=object)
    return names.take(np.concatenate(found))


def sample(
    record: Record, target: str, corpus: Corpus, *, group: int, utterances: int = 48
) -> Sample:
    """Return the sample of an entry whose weights are packaged.

    Args:
        record: The entry.
        target: Name of a packaged recogniser.
        corpus: The whole corpus of its protocol.
        group: Which group is heard, from 1; neither network has heard it.
        utterances: The first so many of it.

    Raises:
        SettingError: The entry has no packaged weights, or the recogniser has heard the group.
    """
    if record.weights is None:
        raise SettingError("weights", None, "the name of a packaged network, to measure a sample")
    folds = corpus.folds(record.protocol.groups)
    if not 1 <= group <= len(folds):
        raise SettingError("group", group, f"a group from 1 to {len(folds)}")
    # The group's features alone: a test has no cache, and those of the whole corpus take long.
    subject = subject_of(target, folds[group - 1].test, folds, group=group)
    subject_part = part(subject, np.arange(len(subject.test)) < utterances)
    built = build_defence(record.weights, subject, seed=0)
    grid = AttackGrid(
        epsilons=(SAMPLE_EPSILON,),
        step=record.protocol.step,
        radius=record.protocol.radius,
        steps=SAMPLE_STEPS,
        adaptive_steps=SAMPLE_STEPS,
    )
    identity = Identity(subject.name, group, 0)
    figures = {}
    for attack in OBLIVIOUS:
        defences = {record.name: built.defence}
        rows = oblivious(
            attack, subject.network, defences, subject_part, grid, identity, compute=CPU
        )
        last = rows[(rows["defence"] == record.name) & (rows["strength"] == rows["strength"].max())]
        figures[attack] = percent(last)
    return Sample(
        target=target,
        group=group,
        utterances=len(subject_part),
        clean=round(figures["none"], 2),
        fgsm=round(figures["fgsm"], 2),
        pgd=round(figures["pgd"], 2),
    )
