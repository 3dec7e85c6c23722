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
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from servax.benchmark import Protocol, Record, read_record, with_figures, write_record
from servax.benchmark.figures import figures_of
from servax.benchmark.measuring import count_ticks, measure, sample
from servax.benchmark.record import GroupSet
from servax.benchmark.systems import Target, defence_of, group_of, kind_of, parameters_of, target_of
from servax.corpora import Corpus, load
from servax.errors import ServaxError, SettingError
from servax.evaluation import records
from servax.evaluation.options import folder_of
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import Attacker
from servax.evaluation.systems import System
from servax.experiments.provenance import provenance
from servax.models import RECOGNISERS
from servax.recognition import Recogniser

RESULTS = Path("results/benchmark")
RECORDS = Path("runs/benchmark")
Defences = Mapping[str, Mapping[int, System]]


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
    if missing:
        seeds = sum(max(1, len(each)) for each in missing.values())
        tick = counter(
            f"{subject.name}, group {subject.group}",
            count_ticks(len(subject.test), seeds, protocol, by),
        )
        for name, frame in measure(subject, missing, protocol, by, tick=tick).items():
            told: dict[str, Any] = {
                **provenance(shlex.join(sys.argv)),
                "key": keys[name],
                "attacks": asdict(protocol.grid()) | {"adaptive": asdict(by)},
            }
            records.write(frame, files[name], provenance=told)
            kept[name] = records.read(files[name])
    return kept


def counter(what: str, total: int) -> Any:
    """Return what shows on the terminal how far a measurement is."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 20 == 0 or done == total:
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return tick


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
