"""Checks of a table of records: is what it claims complete, and true of each utterance?

All are functions of records alone (`servax.evaluation.records`) and give one finding per system.
An utterance is broken when its prediction is not its label.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from servax.evaluation.checks.conditions import (
    POINT,
    UTTERANCE,
    attacks,
    broken,
    score,
    systems,
    white_box,
)
from servax.evaluation.checks.finding import Finding, Severity, percent
from servax.evaluation.metrics import uar
from servax.evaluation.statistics import FEWEST_SPEAKERS, Interval, SpeakerDraws, interval_of
from servax.evaluation.worst_case import worst_case

FEWEST_GAINED = 0.1
"""Gain in UAR below which another order of the classes is no sign of wrong labels."""
MASKED_SHARE = 0.02
"""Share of utterances that only a weaker attacker breaks, above which it is no accident."""


def clean_score(frame: pd.DataFrame) -> tuple[Finding, ...]:
    """Say whether a system recognises anything at all without an attack.

    `warning`: the 95 % interval of the clean UAR (bootstrap over speakers, over utterances where
    there are fewer than 5) reaches down to chance, one over the number of classes in the records:
    a head without training, labels in another order, or sound that the model does not understand;
    or another order of its classes scores higher, on all of the interval. `not-measured`: no clean
    rows.
    """
    return tuple(_clean(subject, rows) for subject, rows in systems(frame))


def _clean(subject: str, rows: pd.DataFrame) -> Finding:
    check = "clean-score"
    clean = rows[rows["attack"] == "none"]
    if clean.empty:
        return Finding(check, subject, "not-measured", "The records hold no clean input.", {})
    labels, predictions = (clean[name].to_numpy(object) for name in ("label", "prediction"))
    names = np.unique(labels.astype(str))
    chance, found = 1.0 / len(names), uar(labels, predictions)
    order = _best_order(labels, predictions, names)
    reordered = np.array([order.get(name, name) for name in predictions], dtype=object)
    by = "speaker" if clean["speaker"].nunique() >= FEWEST_SPEAKERS else "utterance"
    who = clean[by].to_numpy(object).astype(str)

    # One utterance alone has no interval: it is all that is known.
    draws = SpeakerDraws(who) if len(np.unique(who)) > 1 else None
    best = uar(labels, reordered)
    shown, gain = Interval(found, found), Interval(best - found, best - found)
    if draws is not None:
        drawn = draws.uar(labels, predictions)
        shown, gain = interval_of(drawn), interval_of(draws.uar(labels, reordered) - drawn)
    told = (
        f"The clean UAR is {percent(found)} ({percent(shown.low)} to {percent(shown.high)} over "
        f"{by}s), chance {percent(chance)}"
    )
    severity: Severity = "passed"
    if shown.low <= chance:
        severity = "warning"
        told += ": not shown to be above chance, so that the figures under attack say little"
    if best - found >= FEWEST_GAINED and gain.low > 0:
        severity = "warning"
        told += (
            f"; with its classes in another order it would be {percent(best)}: compare the labels "
            "with the order of the model's outputs"
        )
    evidence = {
        "uar": found,
        "low": shown.low,
        "high": shown.high,
        "resampled": by,
        "chance": chance,
        "uar_reordered": best,
        "order": order,
    }
    return Finding(check, subject, severity, f"{told}.", evidence)


def _best_order(
    labels: NDArray[np.object_], predictions: NDArray[np.object_], names: NDArray[np.str_]
) -> dict[str, str]:
    """Return for each predicted class the one that it would have to be called to score best."""
    recall = np.array(
        [[np.mean(predictions[labels == label] == name) for name in names] for label in names]
    )
    true, called = linear_sum_assignment(recall, maximize=True)
    return {str(names[k]): str(names[i]) for i, k in zip(true, called, strict=True)}


def white_box_at_least_black_box(frame: pd.DataFrame) -> tuple[Finding, ...]:
    """Say whether knowing the system helps: what others break, a white-box attack breaks too.

    An utterance that a black-box, transfer or oblivious attack breaks, but no white-box attack of
    the same strength, is evidence of gradient masking (Athalye et al. 2018). `error`: more than
    2 % of the utterances at some strength. `warning`: any. `not-measured`: no strength that both
    kinds of attacker have.
    """
    return tuple(_masked(subject, rows) for subject, rows in systems(frame))


def _masked(subject: str, rows: pd.DataFrame) -> Finding:
    check = "white-box-at-least-black-box"
    known = white_box(rows)
    others = rows.drop(known.index)
    others = others[others["attack"] != "none"]
    compared: list[dict[str, Any]] = []
    for strength in sorted({float(value) for value in known["strength"].unique()}):
        here = known[np.isclose(known["strength"], strength, rtol=1e-6)]
        there = others[np.isclose(others["strength"], strength, rtol=1e-6)]
        tried = set(here[UTTERANCE].itertuples(index=False, name=None))
        shared = tried & set(there[UTTERANCE].itertuples(index=False, name=None))
        if shared:
            missed = sorted((broken(there) & shared) - broken(here))
            compared.append(
                {
                    "strength": strength,
                    "utterances": len(shared),
                    "missed": [str(name) for name, *_ in missed],
                    "share": len(missed) / len(shared),
                }
            )
    if not compared:
        told = "No strength has both a white-box attack and one by an attacker who knows less."
        return Finding(check, subject, "not-measured", told, {})
    most = max(compared, key=lambda row: row["share"])
    share = float(most["share"])
    severity: Severity = "error" if share > MASKED_SHARE else "warning" if share else "passed"
    told = (
        f"{len(most['missed'])} of {most['utterances']} utterances ({percent(share)}) are broken "
        "by an attacker who knows less but by no white-box attack of the same strength "
        f"({most['strength']:g})."
    )
    return Finding(check, subject, severity, told, {"strengths": compared})


def worst_case_below_minimum(frame: pd.DataFrame) -> tuple[Finding, ...]:
    """Give the worst case of each utterance beside the lowest mean of an attack.

    `note`: at some strength the worst case over attacks is lower by a point or more: it is the
    figure to report. `passed`: the strongest attack is as good as all together. `not-measured`: no
    strength and knowledge has two attacks.
    """
    return tuple(_gap(subject, rows) for subject, rows in systems(frame))


def _gap(subject: str, rows: pd.DataFrame) -> Finding:
    check = "worst-case-below-minimum"
    attacked = rows[rows["attack"] != "none"]
    compared: list[dict[str, Any]] = []
    for (knowledge, _), part in attacked.groupby(["knowledge", "strength"]):
        if len(part["attack"].unique()) > 1:
            means = {name: score(part[part["attack"] == name]) for name in attacks(part)}
            strongest = min(means, key=lambda name: means[name])
            compared.append(
                {
                    "knowledge": str(knowledge),
                    "strength": float(part["strength"].iloc[0]),
                    "uar_worst_case": score(worst_case(part, knowledge=str(knowledge))),
                    "uar_minimum": means[strongest],
                    "strongest": strongest,
                    "uar_attacks": means,
                }
            )
    if not compared:
        told = "No strength and knowledge has two attacks."
        return Finding(check, subject, "not-measured", told, {})
    most = max(compared, key=lambda row: row["uar_minimum"] - row["uar_worst_case"])
    gap = most["uar_minimum"] - most["uar_worst_case"]
    told = (
        f"Over {len(most['uar_attacks'])} {most['knowledge']} attacks of strength "
        f"{most['strength']:g} the UAR of the worst case is {percent(most['uar_worst_case'])}, the "
        f"lowest mean ({most['strongest']}) {percent(most['uar_minimum'])}."
    )
    severity: Severity = "note" if gap >= POINT else "passed"
    return Finding(check, subject, severity, told, {"conditions": compared})


def knowledge_complete(
    frame: pd.DataFrame,
    *,
    random_defences: Collection[str] = (),
    eot_draws: Mapping[str, int] | None = None,
) -> tuple[Finding, ...]:
    """Say whether each defence met an attacker who knows it, and EOT where it is random.

    `error`: oblivious, transfer or black-box results without an adaptive or BPDA one; or a random
    defence whose gradients were not averaged over draws (expectation over transformation, Athalye
    et al. 2018). `not-measured`: no attack at all. An oblivious attacker of the bare target knows
    it; one who only asks it, or attacks another model, does not.

    Args:
        frame: Records.
        random_defences: Names of the defences that draw random numbers.
        eot_draws: Draws per gradient in the white-box attacks, by defence; 1 where not given.
    """
    findings = []
    for subject, rows in systems(frame):
        name = str(rows["defence"].iloc[0])
        attacked = rows[rows["attack"] != "none"]
        counts = {str(k): int(v) for k, v in attacked.groupby("knowledge").size().items()}
        draws = (eot_draws or {}).get(name, 1)
        evidence = {"rows": counts, "random": name in random_defences, "eot_draws": draws}
        known = not white_box(attacked).empty
        severity: Severity = "error"
        if not counts:
            severity, told = "not-measured", "The records hold no attack."
        elif not known:
            told = f"Only {', '.join(sorted(counts))} attacks: no attacker who knows the system."
        elif name in random_defences and draws < 2:
            told = "The defence is random, but gradients were taken from single draws, without EOT."
        else:
            severity, told = "passed", f"Attacked with knowledge {', '.join(sorted(counts))}."
        findings.append(Finding("knowledge-complete", subject, severity, told, evidence))
    return tuple(findings)
