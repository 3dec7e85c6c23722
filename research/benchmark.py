"""Measure defences by the benchmark's protocol and write what came out into their entries.

    python research/benchmark.py ssad-plus=ssad-plus-ravdess mean-filter=mean-filter:3 undefended \
        --targets 'runs/ravdess_plus/stages/target-*' --groups 1 2 3

Each defence is `NAME=WHAT`: NAME is an entry, `results/benchmark/NAME.json`, that says what the
defence is (write it first, without figures: docs/benchmark.md); WHAT is the folder of a purifier,
of a recogniser that takes the target's place, the name of a packaged one, or a transform such as
`mean-filter:3`. `{group}` and `{seed}` in it become numbers. `undefended` stands alone.

Predictions of every utterance are kept below `runs/benchmark/` as Parquet: a command that was
stopped goes on where it was. The page follows with `python research/benchmark_page.py`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from entries import (
    Adaptive,
    Figure,
    Figures,
    GroupSet,
    Protocol,
    Record,
    Sample,
    read_record,
    with_figures,
    write_record,
)
from subjects import Target, defence_of, group_of, kind_of, parameters_of, part, target_of

from servax.attacks import PGD, Restarts
from servax.corpora import Corpus, load
from servax.errors import ServaxError, SettingError
from servax.evaluation import records
from servax.evaluation.dataset import EvaluationSet, chosen
from servax.evaluation.engine import AttackEngine, Identity, run
from servax.evaluation.loading import folder_of
from servax.evaluation.metrics import uar
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import AttackGrid
from servax.evaluation.systems import System
from servax.evaluation.threats import Knowledge, Threat
from servax.experiments.provenance import provenance
from servax.features import Dataset
from servax.kinds import check_types
from servax.models import RECOGNISERS
from servax.recognition import Recogniser
from servax.report import Measures, collect

RESULTS = Path("results/benchmark")
RECORDS = Path("runs/benchmark")
HEADINGS = {"clean": "clean", "fgsm": "FGSM mean", "pgd": "PGD mean"}
SAMPLE = AttackGrid(epsilons=(0.009,), steps=9, adaptive_steps=9)
"""What a sample is attacked with: the paper's step and radius."""
Defences = Mapping[str, Mapping[int, System]]
"""By name and by seed of their training; `undefended` has none and stands for the bare model."""


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """How hard the adaptive attacker of the benchmark tries."""

    radii: tuple[float, ...] = (0.005, 0.02)
    """Of the balls, on the [0, 1] scale; a step is a quarter of each."""
    steps: int = 100
    """Steps of each start."""
    restarts: int = 5
    """Random starts."""
    utterances: int = 48
    """How many of each group are attacked, classes and speakers in equal shares."""

    def __post_init__(self) -> None:
        check_types(self)
        if not self.radii or self.utterances < 1:
            told = (self.radii, self.utterances)
            raise SettingError("radii, utterances", told, "at least one of each")
        self.threats()

    def threats(self, knowledge: Knowledge = "adaptive") -> tuple[Threat, ...]:
        """Return the attack of each radius."""
        name, gradients = f"pgd-restarts-{self.steps}x{self.restarts}", self.steps * self.restarts
        start = PGD(steps=self.steps, random_start=True, early_stop=True)
        attacks = [
            Restarts(replace(start, epsilon=radius, step=radius / 4), self.restarts)
            for radius in self.radii
        ]
        return tuple(Threat(name, knowledge, e, gradients=gradients, draws=1) for e in attacks)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("defences", nargs="+", metavar="NAME=WHAT")
    parser.add_argument(
        "--targets",
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="recognisers of `servax run`, or a pattern of their folders; FOLDER@GROUP for one "
        "that was trained otherwise",
    )
    parser.add_argument(
        "--network",
        default="vgg16",
        choices=RECOGNISERS,
        help="which kind of TARGETS is taken (default: %(default)s)",
    )
    parser.add_argument("--groups", nargs="+", type=int, required=True, help="of one set")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the defences")
    parser.add_argument("--radii", nargs="+", type=float, default=list(Attacker().radii))
    parser.add_argument("--adaptive-steps", type=int, default=Attacker().steps)
    parser.add_argument("--restarts", type=int, default=Attacker().restarts)
    parser.add_argument(
        "--adaptive-utterances", type=int, default=Attacker().utterances, help="of each group"
    )
    parser.add_argument(
        "--sample", metavar="TARGET@GROUP", help="packaged recogniser of the sample to recompute"
    )
    parser.add_argument("--sample-utterances", type=int, default=48)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--records", type=Path, default=RECORDS)
    return parser.parse_args()


def named(wanted: list[str], results: Path) -> dict[str, tuple[str, Record]]:
    """Return what stands for each entry, and the entry, by name."""
    found = {}
    for each in wanted:
        name, _, what = each.partition("=")
        if not what and name != UNDEFENDED:
            raise SettingError("defence", each, "NAME=WHAT; only `undefended` stands alone")
        found[name] = (what, read_record(results / f"{name}.json"))
    return found


def set_of(protocol: Protocol, groups: list[int]) -> GroupSet:
    """Return the set that all of the groups are of."""
    sets: tuple[GroupSet, ...] = ("tuning", "held-out")
    for each in sets:
        if set(groups) <= set(protocol.of(each)):
            return each
    told = f"{list(protocol.tuning)} (tuning) or of {list(protocol.held_out)} (held-out)"
    raise SettingError("groups", groups, f"groups of {told}: the sets are measured apart")


def chosen_targets(
    wanted: list[str], corpus: Corpus, count: int, groups: list[int], network: str
) -> list[Target]:
    """Return the recognisers of the groups, all of one network."""
    folds = corpus.folds(count)
    subjects = []
    for each in (found for pattern in wanted for found in matching(pattern)):
        where, _, told = each.partition("@")
        if kind_of(Recogniser.from_pretrained(folder_of(where)).network) != network:
            continue
        group = int(told) if told else group_of(where, folds)
        if group in groups:
            subjects.append(target_of(where, corpus, folds, group=group))
    if sorted(each.group for each in subjects) != sorted(groups):
        told = ", ".join(f"group {each.group}" for each in subjects) or "none"
        raise SettingError("targets", f"{network} of {told}", f"one of each group {groups}")
    return sorted(subjects, key=lambda each: each.group)


def matching(pattern: str) -> list[str]:
    """Return the folders of a pattern, sorted; what matches nothing stands for itself."""
    root = Path(pattern).anchor
    return sorted(map(str, Path(root).glob(pattern.removeprefix(root)))) or [pattern]


def key_of(subject: Target, built: Mapping[int, System], protocol: Protocol, by: Attacker) -> str:
    """Return the hash of everything that decides the records of a defence of a subject."""
    told = {
        "target": subject.system.fingerprint,
        "utterances": list(subject.test.corpus.utterances["utterance"]),
        "defence": {str(seed): each.fingerprint for seed, each in built.items()},
        "protocol": asdict(protocol),
        "attacker": asdict(by),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def measured(
    subject: Target, defences: Defences, protocol: Protocol, by: Attacker, folder: Path
) -> dict[str, records.Records]:
    """Return the records of each defence of a subject; those that are kept are not made again."""
    files = {name: folder / name / f"{subject.name}-{subject.group}.parquet" for name in defences}
    keys = {name: key_of(subject, built, protocol, by) for name, built in defences.items()}
    kept = {
        name: found
        for name, file in files.items()
        if file.is_file() and (found := records.read(file)).provenance["key"] == keys[name]
    }
    missing = {name: built for name, built in defences.items() if name not in kept}
    for name, frame in (measure(subject, missing, protocol, by) if missing else {}).items():
        told: dict[str, Any] = {
            **provenance(shlex.join(sys.argv)),
            "key": keys[name],
            "attacks": asdict(protocol.grid()) | {"adaptive": asdict(by)},
        }
        records.write(frame, files[name], provenance=told)
        kept[name] = records.read(files[name])
    return kept


def measure(
    target: Target, defences: Defences, protocol: Protocol, attacker: Attacker
) -> dict[str, pd.DataFrame]:
    """Return the records of each defence of one recogniser, those of the bare one among them.

    Oblivious attacks are computed once and serve all defences. The adaptive attacker takes exact
    gradients through each (the identity for one without any), on some of the utterances.
    """
    seeded = [(name, seed, each) for name, of in defences.items() for seed, each in of.items()]
    apart = [replace(each, name=f"{name}@{seed}") for name, seed, each in seeded]
    rows = oblivious(target, target.test, protocol.grid(), apart)
    own = rows[rows["defence"] == UNDEFENDED]
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in defences}
    for name, seed, system in seeded:
        of_system = rows[rows["defence"] == f"{name}@{seed}"].assign(defence=name)
        found[name] += [pd.concat([of_system, own], ignore_index=True).assign(seed=seed)]
        found[name] += adaptive(target, replace(system, name=name), attacker, seed)
    if UNDEFENDED in defences:
        found[UNDEFENDED] = [own, *adaptive(target, target.system, attacker, 0)]
    return {
        name: records.validate(pd.concat(frames, ignore_index=True))
        for name, frames in found.items()
    }


def oblivious(
    target: Target, test: Dataset, grid: AttackGrid, systems: Sequence[System]
) -> pd.DataFrame:
    """Return the records of clean input and of the grid, for the bare recogniser and systems."""
    identity = Identity(target.name, target.group, 0)
    return run([target.system, *systems], grid.oblivious(), test, identity=identity).frame


def adaptive(target: Target, system: System, attacker: Attacker, seed: int) -> list[pd.DataFrame]:
    """Return what the adaptive attacker leaves of one system, on the utterances they attack."""
    few = part(target, chosen(target.test.corpus, attacker.utterances, seed=0))
    identity = Identity(target.name, target.group, seed)
    engine = AttackEngine(dataset=EvaluationSet.of(few), identity=identity)
    threats = attacker.threats("adaptive" if system.exact else "bpda")
    return [engine.on_system(threat, system).frame for threat in threats]


def sample(
    record: Record, target: str, corpus: Corpus, *, group: int, utterances: int = 48
) -> Sample:
    """Return the sample of an entry whose weights are packaged: the first so many of a group.

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
    rows = oblivious(heard, few, SAMPLE, [system])
    rows = rows[rows["defence"] == system.name]
    figures = {
        {"none": "clean"}.get(str(attack), str(attack)): round(
            percent(each[each["strength"] == each["strength"].max()]), 2
        )
        for attack, each in rows.groupby("attack")
    }
    return Sample(target=target, group=group, utterances=len(few), **figures)


def figures_of(found: pd.DataFrame, defence: str, *, target: str, **told: Any) -> Figures:
    """Return the figures of one defence, computed as a report does it.

    UARs are pooled over groups and seeds; the intervals are 95 % bootstraps that draw speakers, all
    from the same draws.

    Args:
        found: Records of one kind of recogniser: rows of `defence` and of the bare target on the
            paper's grid, and of attackers who know them, which need not have every utterance.
        defence: Its name in the records; ``undefended`` has neither PE nor RR.
        target: Network of the recognisers.
        told: The other fields: `groups`, `command`, `commit`, `date`.

    Raises:
        ServaxError: The records do not hold the defence, or a cell lacks some utterances.
    """
    found = records.validate(found)
    knows = found["knowledge"].isin(("adaptive", "bpda"))
    named = found["defence"].isin([defence, UNDEFENDED])
    oblivious_run = Measures(collect(found[named & ~knows], adaptive_elsewhere=True))
    if defence not in oblivious_run.defences:
        known = ", ".join(sorted(set(found["defence"])))
        raise ServaxError(f"the records hold no {defence!r}, only {known}; measure it first.")
    table = oblivious_run.table.set_index(["defence", "column"])[["low_percent", "high_percent"]]

    def of_column(name: str, heading: str) -> Figure | None:
        if (name, heading) not in table.index:
            return None
        return figure(oblivious_run.uar(name, heading), tuple(table.loc[(name, heading)]))

    shares: dict[str, Figure | None] = {}
    if defence != UNDEFENDED and oblivious_run.found.conditions("pgd"):
        over = oblivious_run.over_steps(defence)
        shares = {name.lower(): figure(*over[name], digits=3) for name in ("PE", "RR")}
    known_rows = found[knows & (found["defence"] == defence)]
    bare = of_column(UNDEFENDED, "clean")
    if bare is None:
        raise ServaxError("the clean UAR of the bare target is not defined; expected utterances.")
    return Figures(
        target=target,
        heard=tuple(sorted({int(fold) for fold in found["fold"]})),
        seeds=oblivious_run.found.seeds,
        utterances=len(oblivious_run.found.labels) // len(oblivious_run.found.seeds),
        undefended=bare,
        **{name: of_column(defence, heading) for name, heading in HEADINGS.items()},
        **shares,
        adaptive=tuple(
            Adaptive(
                radius=radius,
                steps=steps,
                restarts=restarts,
                utterances=len(rows) // rows["seed"].nunique(),
                uar=round(percent(rows), 2),
            )
            for (radius, steps, restarts), rows in known_rows.groupby(
                ["epsilon", "steps", "restarts"]
            )
        ),
        **told,
    )


def figure(value: float, band: Sequence[float] | None, digits: int = 2) -> Figure | None:
    """Return a figure with its interval, rounded; None where it is not defined."""
    if np.isnan(value):
        return None
    ends = () if band is None or np.isnan(band).any() else band
    low, high = (round(float(end), digits) for end in ends) if len(ends) else (None, None)
    return Figure(value=round(value, digits), low=low, high=high)


def percent(rows: pd.DataFrame) -> float:
    """Return the UAR of rows of records, in percent."""
    labels, predictions = ([str(name) for name in rows[key]] for key in ("label", "prediction"))
    return 100 * uar(labels, predictions)


def command() -> str:
    """Return what was typed, without folders of this machine alone."""
    return shlex.join(["python", *sys.argv])


def main() -> None:
    """Measure what the command line names."""
    given = arguments()
    torch.set_num_threads(1)
    entries = named(given.defences, given.results)
    protocol = next(iter(entries.values()))[1].protocol
    for name, (_, record) in entries.items():
        if record.protocol != protocol:
            raise SettingError(f"the protocol of {name}", record.protocol, f"{protocol}, as others")
    groups = set_of(protocol, given.groups)
    by = Attacker(
        radii=tuple(given.radii),
        steps=given.adaptive_steps,
        restarts=given.restarts,
        utterances=given.adaptive_utterances,
    )
    corpus = load(protocol.corpus, scheme=protocol.scheme)
    subjects = chosen_targets(given.targets, corpus, protocol.groups, given.groups, given.network)
    built = [
        {
            name: {seed: defence_of(what, subject, seed=seed) for seed in given.seeds}
            if what
            else {}
            for name, (what, _) in entries.items()
        }
        for subject in subjects
    ]
    parts = [
        measured(subject, defences, protocol, by, given.records)
        for subject, defences in zip(subjects, built, strict=True)
    ]
    for name, (_, record) in entries.items():
        whole = records.concat([part[name] for part in parts])
        commit = whole.provenance["commit"]
        figures = figures_of(
            whole.frame,
            name,
            target=subjects[0].name,
            groups=groups,
            command=command(),
            commit=commit if isinstance(commit, str) else ", ".join(commit),
            date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        )
        what, seed = entries[name][0], given.seeds[0]
        count = parameters_of(what, subjects[0], seed=seed) if what else None
        record = replace(record, parameters=count)
        record = with_figures(record, figures)
        if given.sample and record.weights:
            target, _, group = given.sample.partition("@")
            told = sample(
                record, target, corpus, group=int(group), utterances=given.sample_utterances
            )
            record = replace(record, sample=told)
        print(write_record(record, given.results))


if __name__ == "__main__":
    try:
        main()
    except ServaxError as error:
        sys.exit(str(error))
