"""What the words and columns of a report mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servax.evaluation.statistics import no_interval
from servax.report import paper, tables
from servax.report.order import family
from servax.report.outcomes import Outcomes
from servax.report.units import BIN_SD_DB, units_of

__all__ = ["definitions"]

_PAPER = "Su & Lee, Interspeech 2022, Table 1 and Figure 2 (IEMOCAP, four classes, ten folds)"
_TRAINED = ("similarity", "vanilla", "pgd-at", "trades")


def definitions(outcomes: Outcomes, provenance: Mapping[str, Any]) -> list[str]:
    """Return what the words and columns mean, one sentence or two each."""
    steps = outcomes.adaptive_steps
    adaptive = (
        f"Adaptive PGD-{steps} takes exact gradients through the defence; † marks a defence "
        "without useful gradients, where the attacker lets them pass unchanged (BPDA). Nothing "
        "hides the undefended target, so there it is plain PGD of as many steps."
    )
    few = no_interval(len(set(outcomes.speakers.tolist())))
    intervals = (
        "Intervals are 95 % percentile bootstraps that resample speakers "
        f"({tables.INTERVAL_RESAMPLES} draws, seed {tables.INTERVAL_SEED})."
    )
    return [
        "UAR is the mean of the per-class recalls, in percent, with the predictions of all folds "
        "pooled. A mean column is the mean of the columns before it.",
        "FGSM and PGD are oblivious: they take gradients of the bare target and know nothing of "
        "the defence. Their strength is ε on the [0, 1] scale and the number of steps k.",
        *([adaptive] if steps else []),
        *_scale(provenance),
        *_trained(outcomes),
        "PE, protection efficacy, is (R_no − R_prot) / R_no, where R is the share of clean-correct "
        "utterances that the attack turns wrong, without and with the defence.",
        "RR, recovery rate, is the share of utterances wrong on clean input that come out right "
        "after attack and defence.",
        "The harm rate is the share of clean-correct utterances that the defence itself turns "
        "wrong on clean input.",
        f"{few or intervals} A dash means not measured or not defined; bold is the best defence "
        "of a column.",
        *_published(outcomes),
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


def _trained(outcomes: Outcomes) -> list[str]:
    kinds = {family(name) for name in outcomes.defences}
    if kinds.isdisjoint(_TRAINED):
        return []
    return [
        "Adversarially trained models (adversarial-similarity-ε and adversarial-vanilla-ε by [18], "
        "pgd-at, trades) take the target's place. The oblivious attacker still takes gradients "
        "of the bare target, so they see transferred inputs, as in the paper. In PE and RR the "
        "clean-correct and R_no are the bare target's; R_prot and recovery are theirs, on the "
        "same inputs."
    ]


def _published(outcomes: Outcomes) -> list[str]:
    if set(paper.TABLE_1).isdisjoint(outcomes.defences):
        return []
    return [
        f"Rows in italics are {_PAPER}; the undefended target has a clean UAR of "
        f"{paper.CLEAN_UAR} there. Its Adv. rows are adversarial-similarity-ε here, its SSAD is "
        "ssad. Its σ are population standard deviations; in Figure 2 it does not say which Adv. "
        "it shows, so the best under PGD stands for it here."
    ]
