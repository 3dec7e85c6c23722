"""The report of a run: records in; pages, pictures and tables for papers and programs out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from servax.errors import SettingError
from servax.evaluation.records import Records
from servax.report import figures
from servax.report.measures import Measures
from servax.report.predictions import TRAINED, UNDEFENDED, collect
from servax.report.rendering import Content, Picture, ReportPaths, write_content
from servax.report.run_files import Examples, training_curves_of
from servax.report.run_sentences import definitions, header, verdict
from servax.report.run_tables import appendix_tables, main_tables
from servax.report.style import png

__all__ = ["pictures", "run_content", "write_report"]

FIRST = ("table-1", "figures/protection", "table-1-adaptive")
"""What a reader came for: Table 1, Figure 2, and the attacker who knows the defence."""


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
    return write_content(run_content(run, examples=examples, logs=logs or {}), Path(folder))


def run_content(run: Measures, *, examples: Examples | None, logs: Mapping[str, Path]) -> Content:
    """Return the content of a report."""
    return Content(
        title=f"servax report: {run.found.target} on {run.found.corpus}",
        verdict=tuple(verdict(run)),
        header=tuple(header(run)),
        tables=main_tables(run),
        appendix=appendix_tables(run),
        pictures=tuple(pictures(run, examples, logs)),
        definitions=tuple(definitions(run)),
        first=FIRST,
        numbers=(("conditions", run.conditions),),
    )


def pictures(run: Measures, examples: Examples | None, logs: Mapping[str, Path]) -> list[Picture]:
    """Return every figure for which there is something to show, in the order of the report.

    Raises:
        ServaxError: A log cannot be read.
    """
    made = []
    pgd = run.found.conditions("pgd")
    if examples is not None:
        made.append(_spectrograms(examples))
    if run.found.conditions("fgsm") or pgd:
        made.append(
            Picture(
                "uar",
                "UAR against the strength of the attack",
                "Left: FGSM by ε; right: PGD by steps. Lines are oblivious attacks; the tinted "
                "band shows what is left when the attacker knows the defence. The dotted line is "
                "chance." + _left_out(run, len(figures.drawn_uar(run))),
                png(figures.uar_curves(run)),
            )
        )
    if pgd and set(run.defences) != {UNDEFENDED}:
        made.append(_protection(run))
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


def _spectrograms(examples: Examples) -> Picture:
    return Picture(
        "spectrograms",
        "What attack and purifier do",
        "Log-Mel spectrogram of one utterance: original, attacked, purified; beside them what the "
        "attack added and in what the purified one differs from the original. Each difference has "
        "its own scale: the attack is often far smaller than what the purifier changes.",
        png(figures.spectrogram_triple(examples)),
    )


def _protection(run: Measures) -> Picture:
    return Picture(
        "protection",
        "Protection efficacy and recovery rate",
        "Figure 2 of the paper. Above: the share of the risk that each defence takes away (PE, "
        "solid); below: the share of clean errors that come out right (RR, dashed), by steps of "
        "oblivious PGD, with 95 % bands over speakers. Beside each name: the average ± population "
        "standard deviation over all k; dotted, the paper's averages. The tinted strip shows the "
        "same under adaptive PGD." + _left_out(run, len(run.drawn_protection) + 1),
        png(figures.protection_curves(run)),
    )


def _left_out(run: Measures, shown: int) -> str:
    words = (
        " Of many defences it shows SSAD, the best of each kind by PGD mean; the tables have all."
    )
    return words * (shown < len(run.defences))


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
