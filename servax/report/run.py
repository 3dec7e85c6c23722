"""The report of a run: records in; pages, pictures and tables for papers and programs out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servax.errors import SettingError
from servax.evaluation.records import UNDEFENDED, Records
from servax.evaluation.statistics import RESAMPLES, SEED, no_interval
from servax.report import figures, paper
from servax.report.measures import BIN_SD_DB, Measures
from servax.report.predictions import TRAINED, collect, family
from servax.report.rendering import Picture, Prose, Report, ReportPaths, csv, words, write
from servax.report.run_files import Examples, training_curves_of
from servax.report.run_tables import appendix_tables, main_tables
from servax.report.sound_tables import on_sound, ratio_figure, sound_tables, sound_verdict
from servax.report.style import png
from servax.report.tables import listed, percent_sign, percentage

FIRST = ("tables/table-1", "figures/protection", "tables/table-1-adaptive")
"""What a reader came for: Table 1, Figure 2, and the attacker who knows the defence."""
FIRST_ON_SOUND = ("tables/table-1", "figures/uar", "tables/table-1-adaptive")
NOT_RECORDED = "not recorded"
_HEADER = {
    "command": "command",
    "recipe": "recipe",
    "machine": "machine",
    "commit": "commit",
    "fold_hash": "fold hash",
    "versions": "versions",
    "servax": "servax",
    "scheme": "label scheme",
    "scale": "scale",
    "attacks": "attack settings",
}
_ALWAYS = ("command", "machine", "commit", "fold_hash", "versions")
_FROM_ROWS = ("corpus", "classes", "seed", "seeds", "target")


def write_report(
    records: Records,
    folder: str | Path,
    *,
    examples: Examples | None = None,
    logs: Mapping[str, Path] | None = None,
) -> ReportPaths:
    """Write the report of `records` into `folder`; each file appears whole or not at all.

    Everything is computed before the first file is written.

    Args:
        records: Predictions with provenance, of one corpus and one target.
        folder: Made when it does not exist; files of an earlier report are replaced.
        examples: An utterance for the spectrogram figure.
        logs: Name → training log (JSON lines), one figure each.

    Returns:
        The paths written.

    Raises:
        ServaxError: The records cannot be compared (`servax.report.collect`) or a log cannot be
            read.
        SettingError: The name of a log is not fit for a file name.
    """
    for name in logs or {}:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise SettingError("the name of a log", name, "letters, digits, '_', '-' and '.'")
    run = Measures(collect(records.frame, records.provenance))
    sound = on_sound(run)
    report = Report(
        title=f"servax report: {run.found.target} on {run.found.corpus}",
        findings=tuple(sound_verdict(run) if sound else verdict(run)),
        provenance=tuple(header(run)),
        sections=(
            *(sound_tables(run) if sound else main_tables(run)),
            *pictures(run, examples, logs or {}),
            *(() if sound else appendix_tables(run)),
            Prose("What the words mean", _words(run)),
        ),
        first=FIRST_ON_SOUND if sound else FIRST,
        files={"tables/conditions.csv": csv(run.conditions)},
    )
    return write(report, Path(folder))


def _words(run: Measures) -> tuple[str, ...]:
    speakers = np.unique(run.found.speakers).size
    drawn = f"{RESAMPLES} draws, seed {SEED}"
    if on_sound(run):
        tried = {c.knowledge for _, c in run.found.cells}
        classes = len(run.found.classes)
        return words(
            "sound",
            chance=percentage(100 / classes),
            classes=classes,
            tried=tried,
            no_interval=no_interval(speakers),
            draws=drawn,
        )
    return words(
        "run",
        steps=run.found.adaptive_steps,
        units=run.units,
        bin_sd_db=BIN_SD_DB,
        trained=any(family(name) in TRAINED for name in run.defences),
        beside_paper=not set(paper.TABLE_1).isdisjoint(run.defences),
        clean_uar=paper.CLEAN_UAR,
        no_interval=no_interval(speakers),
        draws=drawn,
    )


def pictures(run: Measures, examples: Examples | None, logs: Mapping[str, Path]) -> list[Picture]:
    """Return every figure for which there is something to show, in the order of the report.

    Raises:
        ServaxError: A log cannot be read.
    """
    made = []
    pgd = run.found.conditions("pgd")
    some = (
        " Of many defences it shows SSAD, the best of each kind by PGD mean; the tables have all."
    )
    if examples is not None:
        made.append(
            Picture(
                "spectrograms",
                "What attack and purifier do",
                "Log-Mel spectrogram of one utterance: original, attacked, purified; beside them "
                "what the attack added and in what the purified one differs from the original. "
                "Each difference has its own scale: the attack is often far smaller than what the "
                "purifier changes.",
                png(figures.spectrogram_triple(examples)),
            )
        )
    if on_sound(run):
        made.append(
            Picture(
                "uar",
                "UAR against the budget of the attack",
                "Left: one who knows only the bare recogniser; right: the worst of all attackers, "
                "the adaptive one among them. The dotted line is chance.",
                png(ratio_figure(run)),
            )
        )
        return made
    if run.found.conditions("fgsm") or pgd:
        made.append(
            Picture(
                "uar",
                "UAR against the strength of the attack",
                "Left: FGSM by ε; right: PGD by steps. Lines are oblivious attacks; the tinted "
                "band shows what is left when the attacker knows the defence. The dotted line is "
                "chance." + some * (len(run.drawn_uar) < len(run.defences)),
                png(figures.uar_curves(run)),
            )
        )
    if pgd and set(run.defences) != {UNDEFENDED}:
        made.append(
            Picture(
                "protection",
                "Protection efficacy and recovery rate",
                "Figure 2 of the paper. Above: the share of the risk that each defence takes away "
                "(PE, solid); below: the share of clean errors that come out right (RR, dashed), "
                "by steps of oblivious PGD, with 95 % bands over speakers. Beside each name: the "
                "average ± population standard deviation over all k; dotted, the paper's averages. "
                "The tinted strip shows the same under adaptive PGD."
                + some
                * (len(run.drawn_protection) + 1 < len(run.defences)),
                png(figures.protection_curves(run)),
            )
        )
    made.append(_confusion(run))
    return made + [
        Picture(
            f"training-{name}",
            f"Training of {name}",
            "Every term of the training log by epoch; dashed is the validation part.",
            png(figures.training_curves(training_curves_of(path), title=name)),
        )
        for name, path in logs.items()
    ]


def _confusion(run: Measures) -> Picture:
    """Show SSAD, else its best variant, else the last defence; then the best trained model."""
    others = [name for name in run.defences if name != UNDEFENDED]
    own = "ssad" if "ssad" in others else run.best_of("ssad")
    pair = (own or (others or [UNDEFENDED])[-1], run.best_of(*TRAINED))
    shown = [name for name in dict.fromkeys(pair) if name not in (None, UNDEFENDED)]
    below = f"; above without a defence, below with {', then '.join(shown)}" if shown else ""
    return Picture(
        "confusion",
        "Who is taken for whom",
        "Percent of each true class (row) by predicted class (column): on clean input, under "
        f"oblivious PGD, and under the strictest PGD{below}.",
        png(figures.confusion_matrices(run, defences=shown)),
    )


def setting(value: Any) -> str:
    """Return a provenance value as one line of text."""
    if isinstance(value, Mapping):
        inner = {
            name: f"({setting(part)})" if isinstance(part, Mapping) else setting(part)
            for name, part in value.items()
        }
        return ", ".join(f"{name} {part}" for name, part in inner.items())
    if isinstance(value, list | tuple):
        return "; ".join(setting(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def header(run: Measures) -> list[tuple[str, str]]:
    """Return name and value of all that says where the numbers come from."""
    found, told = run.found, run.found.provenance
    rows = [
        (
            "corpus",
            f"{found.corpus}: {len(found.labels)} utterances"
            f"{' × seeds' if len(found.seeds) > 1 else ''} of "
            f"{np.unique(found.speakers).size} held-out speakers, "
            f"classes {', '.join(found.classes)}",
        ),
        ("target", found.target),
        ("folds × seeds", f"{len(found.runs)} (pooled)"),
        ("seeds", ", ".join(map(str, found.seeds))),
    ]
    for name, title in _HEADER.items():
        if name in told or name in _ALWAYS:
            rows.append((title, setting(told.get(name, NOT_RECORDED)) or NOT_RECORDED))
    # The whole recipe stays in the table's provenance; printed, it would bury everything else.
    known = {*_HEADER, *_FROM_ROWS, "settings"}
    return rows + [(name, setting(value)) for name, value in told.items() if name not in known]


def verdict(run: Measures) -> list[str]:
    """Return the findings in sentences; the first says what the adaptive attacker leaves."""

    def told(name: str, heading: str = "clean") -> str:
        return percent_sign(run.uar(name, heading))

    chance = percent_sign(100 / len(run.found.classes))
    others = [name for name in run.defences if name != UNDEFENDED]
    defences = run.vaccines or others
    last = run.last[0].heading if run.last else ""
    attacked = [name for name in defences if run.uar(name, last) >= 0]
    if not attacked:
        return [
            "No defence was attacked adaptively, so this report says nothing about protection; "
            f"the undefended target has a clean UAR of {told(UNDEFENDED)} (chance {chance})."
        ]
    left = [
        f"{name} a UAR of {told(name, last)} (of {told(name)} on clean input)" for name in attacked
    ]
    sentences = [
        "An attacker who knows the defence and takes gradients through it "
        f"({last.removeprefix('adaptive ')}) leaves {listed(left)}; chance is {chance}."
    ]
    means = [column.heading for column in run.columns if column.mean]
    if not means:
        return sentences

    def kept(name: str) -> str:
        return listed([f"{told(name, heading)} ({heading})" for heading in means])

    sentences.append(
        "An attacker who knows only the bare target (oblivious, the paper's threat model) leaves "
        f"{listed([f'{name} {kept(name)}' for name in defences])}; without a defence it leaves "
        f"{kept(UNDEFENDED)}, of {told(UNDEFENDED)} on clean input."
    )
    totals = {
        name: sum(run.uar(name, heading) for heading in means)
        for name in others
        if name not in defences
    }
    controls = {name: total for name, total in totals.items() if not math.isnan(total)}
    if controls:
        best = max(controls, key=lambda name: controls[name])
        sentences.append(f"The best other defence, {best}, keeps {kept(best)}.")
    return sentences + _beside_paper(run)


def _beside_paper(run: Measures) -> list[str]:
    """Return how much of the clean UAR SSAD keeps, here and in the paper."""
    clean, told = run.uar(UNDEFENDED, "clean"), []
    for column in run.columns:
        share = run.uar("ssad", column.heading) / clean if clean else math.nan
        if column.mean and not math.isnan(share):
            mean, _ = paper.uar("ssad", column.attack, paper.GRID[column.attack])
            told.append(
                f"{percent_sign(100 * share)} under {column.attack.upper()} "
                f"(in the paper, on IEMOCAP, {percent_sign(100 * mean / paper.CLEAN_UAR)})"
            )
    keeps = "Of the undefended target's clean UAR, ssad keeps on average"
    return [f"{keeps} {listed(told)}."] if told else []
