"""From a recogniser and defences to records, and the sample that a test measures again.

Oblivious attacks are computed once per recogniser and serve all defences. The adaptive attacker
takes exact gradients through each defence (the identity for one without any), from several random
starts, on some of the utterances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from servax.benchmark.figures import percent
from servax.benchmark.record import Protocol, Record, Sample
from servax.benchmark.systems import Target, defence_of, part, target_of
from servax.corpora import Corpus
from servax.errors import SettingError
from servax.evaluation.dataset import EvaluationSet, chosen
from servax.evaluation.engine import AttackEngine, Identity
from servax.evaluation.records import UNDEFENDED, validate
from servax.evaluation.suites import Attacker, AttackGrid
from servax.evaluation.systems import System
from servax.training import generator

__all__ = ["count_ticks", "measure", "sample"]

BATCH = 16
SAMPLE_EPSILON, SAMPLE_STEPS = 0.009, 9


def measure(
    target: Target,
    defences: Mapping[str, Mapping[int, System]],
    protocol: Protocol,
    attacker: Attacker,
    *,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, pd.DataFrame]:
    """Return the records of each defence of one recogniser, those of the bare one among them.

    Args:
        target: The recogniser with its utterances.
        defences: By name and by seed of their training; ``undefended`` has none and asks for the
            bare recogniser's own records.
        protocol: The oblivious attacks.
        attacker: The adaptive ones.
        tick: Called now and then, `count_ticks` times in all.

    Returns:
        By name: rows of the defence and of the bare recogniser, the latter once per seed.
    """
    bare = target.system
    seeded = {(name, seed): s for name, seeds in defences.items() for seed, s in seeds.items()}
    apart = [replace(system, name=f"{name}@{seed}") for (name, seed), system in seeded.items()]
    engine = AttackEngine(
        dataset=EvaluationSet.of(target.test),
        identity=Identity(target.name, target.group, 0),
        batch_size=BATCH,
        tick=tick,
    )
    rows = _oblivious(engine, [bare, *apart], protocol.grid())
    own = rows[rows["defence"] == UNDEFENDED]
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in defences}
    for (name, seed), system in seeded.items():
        of_system = rows[rows["defence"] == f"{name}@{seed}"].assign(defence=name)
        both = pd.concat([of_system, own], ignore_index=True).assign(seed=seed)
        found[name] += [both, *_adaptive(engine, target, system, name, attacker, seed)]
    if UNDEFENDED in defences:
        found[UNDEFENDED] += [own, *_adaptive(engine, target, bare, UNDEFENDED, attacker, 0)]
    return {name: validate(pd.concat(frames, ignore_index=True)) for name, frames in found.items()}


def count_ticks(count: int, seeds: int, protocol: Protocol, attacker: Attacker) -> int:
    """Return how often `measure` ticks for `count` utterances and `seeds` modules in all."""
    few = min(count, attacker.utterances)
    oblivious = sum(threat.ticks(count, BATCH) for threat in protocol.grid().oblivious())
    adaptive = sum(threat.ticks(few, BATCH) for threat in attacker.threats())
    return -(-count // BATCH) + oblivious + seeds * adaptive


def _oblivious(engine: AttackEngine, systems: list[System], grid: AttackGrid) -> pd.DataFrame:
    """Return the records of clean input and of the grid; the bare recogniser stands first."""
    source = systems[0].model
    attacked = [engine.on_source(threat, source, systems) for threat in grid.oblivious()]
    frames = [engine.clean(systems), *(each.frame for each in attacked)]
    return pd.concat(frames, ignore_index=True)


def _adaptive(
    engine: AttackEngine, target: Target, system: System, name: str, attacker: Attacker, seed: int
) -> Iterator[pd.DataFrame]:
    """Yield what the adaptive attacker leaves of one system, on the utterances they attack."""
    few = part(target, chosen(target.test.corpus, attacker.utterances, seed=0))
    engine = replace(
        engine,
        dataset=EvaluationSet.of(few),
        identity=replace(engine.identity, seed=seed),
        starts=lambda _, number: generator(seed, "benchmark", target.group, number),
    )
    for threat in attacker.threats("adaptive" if system.exact else "bpda"):
        yield engine.on_system(threat, replace(system, name=name)).frame


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
    heard = target_of(target, folds[group - 1].test, folds, group=group)
    few = part(heard, np.arange(len(heard.test)) < utterances)
    system = defence_of(record.weights, heard, seed=0)
    grid = AttackGrid(
        epsilons=(SAMPLE_EPSILON,),
        step=record.protocol.step,
        radius=record.protocol.radius,
        steps=SAMPLE_STEPS,
        adaptive_steps=SAMPLE_STEPS,
    )
    identity = Identity(heard.name, group, 0)
    engine = AttackEngine(dataset=EvaluationSet.of(few), identity=identity)
    rows = _oblivious(engine, [heard.system, system], grid)
    rows = rows[rows["defence"] == system.name]
    figures = {
        str(attack): round(percent(each[each["strength"] == each["strength"].max()]), 2)
        for attack, each in rows.groupby("attack")
    }
    return Sample(
        target=target,
        group=group,
        utterances=len(few),
        clean=figures["none"],
        fgsm=figures["fgsm"],
        pgd=figures["pgd"],
    )
