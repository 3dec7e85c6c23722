"""The sentences of a run's report: the verdict, where the numbers come from, what words mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from servax.evaluation.statistics import RESAMPLES, SEED, no_interval
from servax.report import paper
from servax.report.measures import Measures
from servax.report.predictions import TRAINED, UNDEFENDED, family
from servax.report.tables import listed, percent_sign

__all__ = ["definitions", "header", "setting", "units_of", "verdict"]

NOT_RECORDED = "not recorded"
BIN_SD_DB = 12.0
"""Standard deviation of a Mel bin, in dB, at which the paper's ε are those of [18]."""
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
_PAPER = "Su & Lee, Interspeech 2022, Table 1 and Figure 2 (IEMOCAP, four classes, ten folds)"


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
    chance = percent_sign(100 / len(run.found.classes))
    others = [name for name in run.defences if name != UNDEFENDED]
    defences = run.vaccines or others
    last = run.last[0].heading if run.last else ""
    attacked = [name for name in defences if run.uar(name, last) >= 0]
    if not attacked:
        return [
            "No defence was attacked adaptively, so this report says nothing about protection; "
            f"the undefended target has a clean UAR of {_told(run, UNDEFENDED)} "
            f"(chance {chance})."
        ]
    left = [
        f"{name} a UAR of {_told(run, name, last)} (of {_told(run, name)} on clean input)"
        for name in attacked
    ]
    return [
        "An attacker who knows the defence and takes gradients through it "
        f"({last.removeprefix('adaptive ')}) leaves {listed(left)}; chance is {chance}.",
        *_oblivious(run, defences),
    ]


def _told(run: Measures, name: str, heading: str = "clean") -> str:
    return percent_sign(run.uar(name, heading))


def _oblivious(run: Measures, defences: Sequence[str]) -> list[str]:
    means = [column.heading for column in run.columns if column.mean]
    if not means:
        return []

    def told(name: str) -> str:
        return listed([f"{_told(run, name, h)} ({h})" for h in means])

    kept = [f"{name} {told(name)}" for name in defences]
    sentences = [
        "An attacker who knows only the bare target (oblivious, the paper's threat model) leaves "
        f"{listed(kept)}; without a defence it leaves {told(UNDEFENDED)}, of "
        f"{_told(run, UNDEFENDED)} on clean input."
    ]
    totals = {
        name: sum(run.uar(name, heading) for heading in means)
        for name in run.defences
        if name not in (UNDEFENDED, *defences)
    }
    controls = {name: total for name, total in totals.items() if not math.isnan(total)}
    if controls:
        best = max(controls, key=lambda name: controls[name])
        sentences.append(f"The best other defence, {best}, keeps {told(best)}.")
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


def definitions(run: Measures) -> list[str]:
    """Return what the words and columns mean, one sentence or two each."""
    steps = run.found.adaptive_steps
    adaptive = (
        f"Adaptive PGD-{steps} takes exact gradients through the defence; † marks a defence "
        "without useful gradients, where the attacker lets them pass unchanged (BPDA). Nothing "
        "hides the undefended target, so there it is plain PGD of as many steps."
    )
    trained = (
        "Adversarially trained models (adversarial-similarity-ε and adversarial-vanilla-ε by [18], "
        "pgd-at, trades) take the target's place. The oblivious attacker still takes gradients "
        "of the bare target, so they see transferred inputs, as in the paper. In PE and RR the "
        "clean-correct and R_no are the bare target's; R_prot and recovery are theirs, on the "
        "same inputs."
    )
    published = (
        f"Rows in italics are {_PAPER}; the undefended target has a clean UAR of "
        f"{paper.CLEAN_UAR} there. Its Adv. rows are adversarial-similarity-ε here, its SSAD is "
        "ssad. Its σ are population standard deviations; in Figure 2 it does not say which Adv. "
        "it shows, so the best under PGD stands for it here."
    )
    few = no_interval(np.unique(run.found.speakers).size)
    intervals = (
        "Intervals are 95 % percentile bootstraps that resample speakers "
        f"({RESAMPLES} draws, seed {SEED})."
    )
    has_trained = any(family(name) in TRAINED for name in run.defences)
    in_paper = not set(paper.TABLE_1).isdisjoint(run.defences)
    return [
        "UAR is the mean of the per-class recalls, in percent, with the predictions of all folds "
        "pooled. A mean column is the mean of the columns before it.",
        "FGSM and PGD are oblivious: they take gradients of the bare target and know nothing of "
        "the defence. Their strength is ε on the [0, 1] scale and the number of steps k.",
        *([adaptive] if steps else []),
        *_scale(run.found.provenance),
        *([trained] if has_trained else []),
        "PE, protection efficacy, is (R_no − R_prot) / R_no, where R is the share of clean-correct "
        "utterances that the attack turns wrong, without and with the defence.",
        "RR, recovery rate, is the share of utterances wrong on clean input that come out right "
        "after attack and defence.",
        "The harm rate is the share of clean-correct utterances that the defence itself turns "
        "wrong on clean input.",
        f"{few or intervals} A dash means not measured or not defined; bold is the best defence "
        "of a column.",
        *([published] if in_paper else []),
    ]


def _scale(provenance: Mapping[str, Any]) -> list[str]:
    units = units_of(provenance)
    if units.z is None:
        return []
    if units.exact_z:
        mean = "" if units.db is None else f" (on average ε × {units.db:.1f} dB)"
        return [
            f"The scale is [18]'s: z is ε × {units.z:.2f} standard deviations of a Mel bin, "
            f"exactly. What that is in dB depends on the bin{mean}."
        ]
    return [
        f"ε on the [0, 1] scale is ε × {units.db:g} dB. z, the unit of [18], is "
        f"ε × {units.z:.2f}: as many standard deviations of a Mel bin, if that is {BIN_SD_DB:g} dB."
    ]


@dataclass(frozen=True)
class Units:
    """What a change of 1 on the [0, 1] scale is in other units; None where nothing says so.

    [18] (Ren et al. 2020) attacks log-Mel in standard deviations of a Mel bin. With the dB window,
    ε is ε · window dB, and at 12 dB per standard deviation ε · window / 12 of them (· 6.67 for
    80 dB). With the z-score scale ε · width is exact, and the dB depend on the bin: its mean is
    told where the provenance has ``scale_sd_db``, the mean standard deviation of a bin in dB (one
    number, or one for each fold).
    """

    db: float | None
    """In dB (of an average Mel bin, where bins differ)."""
    z: float | None
    """In standard deviations of a Mel bin."""
    exact_z: bool
    """Whether the z-scores are exact (z-score scale) or rest on `BIN_SD_DB`."""

    def told(self, epsilon: float) -> str:
        """Return ε in the other units, ``0.24 dB, z .020``, or ``""``."""
        parts = []
        if self.db is not None:
            mean = "mean\N{NO-BREAK SPACE}" if self.exact_z else ""
            parts.append(f"{mean}{epsilon * self.db:.2f}\N{NO-BREAK SPACE}dB")
        if self.z is not None:
            parts.append(f"z\N{NO-BREAK SPACE}{epsilon * self.z:.3f}".replace("0.", ".", 1))
        return ", ".join(parts)


def units_of(provenance: Mapping[str, Any]) -> Units:
    """Return the units of the scale that `provenance` names (``scale``)."""
    scale = provenance.get("scale")
    if not isinstance(scale, Mapping):
        return Units(None, None, exact_z=False)
    width = _number(scale.get("width_sd"))
    if width is not None:
        sd = _number(provenance.get("scale_sd_db"))
        return Units(None if sd is None else width * sd, width, exact_z=True)
    window = _number(scale.get("window_db"))
    return Units(window, None if window is None else window / BIN_SD_DB, exact_z=False)


def _number(value: object) -> float | None:
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None
