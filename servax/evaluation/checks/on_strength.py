"""Checks of a table of records: does an attack get stronger where it must?

All are functions of records alone (`servax.evaluation.records`) and give one finding per system.
UARs are compared on the utterances that both conditions hold, with a tolerance of one utterance.
Source: Carlini et al. 2019, "On evaluating adversarial robustness", section 4 and appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from servax.evaluation.checks.conditions import (
    POINT,
    UTTERANCE,
    at,
    attacks,
    pair,
    score,
    strengths,
    systems,
    white_box,
)
from servax.evaluation.checks.finding import Finding, Severity, percent, worst
from servax.evaluation.protocol import UNDEFENDED
from servax.evaluation.records import validate

Row = dict[str, Any]


def pgd_at_least_fgsm(
    frame: pd.DataFrame,
    *,
    fgsm: str = "fgsm",
    pgd: str = "pgd",
    pairs: Sequence[tuple[float, float]] | None = None,
) -> tuple[Finding, ...]:
    """Say whether many steps are at least as strong as one: UAR under PGD is not above FGSM's.

    `error`: it is, for an attacker who knows the system. `warning`: it is, for one who does not;
    many steps may then fit the wrong model. `not-measured`: no strength in common.

    Args:
        frame: Records.
        fgsm: Name of the one-step attack.
        pgd: Name of the attack with many steps.
        pairs: (strength of FGSM, strength of PGD) with the same radius, where the records count
            PGD's steps instead; default: equal strengths.
    """
    findings = []
    for subject, rows in systems(frame):
        known = set(white_box(rows).index)
        compared: list[Row] = []
        for knowledge, part in rows.groupby("knowledge"):
            both = set(strengths(part, fgsm)) & set(strengths(part, pgd))
            for epsilon, strength in pairs or [(value, value) for value in sorted(both)]:
                found = pair(at(part, fgsm, epsilon), at(part, pgd, strength))
                if found is not None:
                    rule: Severity = "error" if known & set(part.index) else "warning"
                    weaker = found.second > found.first + found.tolerance
                    compared.append(
                        {
                            "knowledge": str(knowledge),
                            "epsilon": epsilon,
                            "strength": strength,
                            "uar_fgsm": found.first,
                            "uar_pgd": found.second,
                            "severity": rule if weaker else "passed",
                        }
                    )
        told = "UAR under {pgd} {uar_pgd} against {uar_fgsm} under {fgsm} of the same size"
        gap = ("uar_pgd", "uar_fgsm")
        findings.append(
            _told("pgd-at-least-fgsm", subject, compared, told, gap, pgd=pgd, fgsm=fgsm)
        )
    return tuple(findings)


def uar_falls_with_strength(frame: pd.DataFrame) -> tuple[Finding, ...]:
    """Say whether the UAR never rises with the strength of an attack, from clean input on.

    `error`: it rises by more than an utterance, for an attacker who knows the system. `warning`: it
    does, for one who does not. `not-measured`: fewer than two strengths, clean input counted.
    """
    findings = []
    for subject, rows in systems(frame):
        clean = rows[rows["attack"] == "none"]
        known = set(white_box(rows).index)
        compared: list[Row] = []
        for (attack, knowledge), part in rows[rows["attack"] != "none"].groupby(
            ["attack", "knowledge"]
        ):
            steps = [
                (value, at(part, str(attack), value)) for value in strengths(part, str(attack))
            ]
            for (low, before), (high, after) in pairwise([(0.0, clean), *steps]):
                found = pair(before, after)
                if found is not None:
                    rule: Severity = "error" if known & set(part.index) else "warning"
                    rises = found.second > found.first + found.tolerance
                    compared.append(
                        {
                            "attack": str(attack),
                            "knowledge": str(knowledge),
                            "from": low,
                            "to": high,
                            "uar_from": found.first,
                            "uar_to": found.second,
                            "severity": rule if rises else "passed",
                        }
                    )
        told = "UAR under {attack} {uar_to} at strength {to:g} against {uar_from} at {from:g}"
        gap = ("uar_to", "uar_from")
        findings.append(_told("uar-falls-with-strength", subject, compared, told, gap))
    return tuple(findings)


def noise_weaker(frame: pd.DataFrame, *, noise: str = "noise") -> tuple[Finding, ...]:
    """Say whether white-box attacks do more than random noise of the same size.

    `error`: the UAR under some attack is above that under noise by more than an utterance.
    `warning`: it is not below by more than that, and not 0. `not-measured`: no noise of the same
    strength as a white-box attack.

    Args:
        frame: Records.
        noise: Name under which the noise stands, whatever its knowledge.
    """
    findings = []
    for subject, rows in systems(frame):
        compared: list[Row] = []
        known = white_box(rows)
        for attack in attacks(known, without=[noise]):
            for strength in strengths(known, attack):
                quiet = at(rows, noise, strength).drop_duplicates(UTTERANCE)
                found = pair(quiet, _once(at(known, attack, strength)))
                if found is None:
                    continue
                severity: Severity = "passed"
                if found.second > found.first + found.tolerance:
                    severity = "error"
                elif found.second > 0 and found.second >= found.first - found.tolerance:
                    severity = "warning"
                compared.append(
                    {
                        "attack": attack,
                        "strength": strength,
                        "uar_noise": found.first,
                        "uar_attack": found.second,
                        "severity": severity,
                    }
                )
        told = "UAR {uar_attack} under {attack}, {uar_noise} under noise of strength {strength:g}"
        gap = ("uar_attack", "uar_noise")
        findings.append(_told("noise-weaker", subject, compared, told, gap))
    return tuple(findings)


def twice_the_steps(
    frame: pd.DataFrame, *, attack: str = "pgd", doubled: str = "pgd-2x"
) -> tuple[Finding, ...]:
    """Say whether the attack has converged: twice the steps move the UAR by less than a point.

    `warning`: they move it by a point or more, and by more than one utterance (which is worth more
    than a point where a class has few). `not-measured`: no strength and knowledge in common.

    Args:
        frame: Records.
        attack: Name of the attack.
        doubled: Name of the same attack with twice its steps.
    """
    findings = []
    for subject, rows in systems(frame):
        compared: list[Row] = []
        for knowledge, part in rows.groupby("knowledge"):
            for strength in strengths(part, attack):
                found = pair(at(part, attack, strength), at(part, doubled, strength))
                if found is not None:
                    moved = abs(found.second - found.first)
                    moves = moved >= POINT and moved > found.tolerance
                    compared.append(
                        {
                            "knowledge": str(knowledge),
                            "strength": strength,
                            "uar": found.first,
                            "uar_doubled": found.second,
                            "moved": moved,
                            "severity": "warning" if moves else "passed",
                        }
                    )
        told = "UAR {uar} under {name} of strength {strength:g}, {uar_doubled} with twice the steps"
        findings.append(
            _told("twice-the-steps", subject, compared, told, ("moved", None), name=attack)
        )
    return tuple(findings)


def attack_breaks_undefended(frame: pd.DataFrame, *, noise: str = "noise") -> tuple[Finding, ...]:
    """Say whether each white-box attack on a defence breaks the undefended twin.

    Both are compared at the largest strength of the attack on the defence. `error`: the twin's UAR
    stays above chance (1 / classes) under each of them, so the attacks are at fault. `warning`: it
    does under some, which add nothing to those that break it. `not-measured`: no white-box attack
    on the defence, or none with its name and strength on the twin.

    Args:
        frame: Records.
        noise: Name of random noise, which is not meant to break anything.
    """
    findings = []
    bare = validate(frame)
    bare = bare[bare["defence"] == UNDEFENDED]
    for subject, rows in systems(frame):
        if (rows["defence"] == UNDEFENDED).all():
            continue
        twins = bare[bare["target"] == rows["target"].iloc[0]]
        chance = 1.0 / rows["label"].nunique()
        compared: list[Row] = []
        known = white_box(rows)
        for attack in attacks(known, without=[noise]):
            strength = max(strengths(known, attack))
            twin = _once(at(white_box(twins), attack, strength))
            if not twin.empty:
                held = score(twin) > chance + 1e-9
                compared.append(
                    {
                        "attack": attack,
                        "strength": strength,
                        "uar_undefended": score(twin),
                        "uar_defended": score(_once(at(known, attack, strength))),
                        "chance": chance,
                        "severity": "warning" if held else "passed",
                    }
                )
        if all(row["severity"] == "warning" for row in compared):
            compared = [{**row, "severity": "error"} for row in compared]
        told = "UAR {uar_undefended} of the undefended twin under {attack} of strength {strength:g}"
        told += ", chance {chance}"
        gap = ("uar_undefended", None)
        findings.append(_told("attack-breaks-undefended", subject, compared, told, gap))
    return tuple(findings)


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with each utterance once: of two kinds of knowledge, the worse outcome."""
    right = (rows["prediction"] == rows["label"]).sort_values(kind="stable").index
    return rows.loc[right].drop_duplicates(UTTERANCE)


def _told(
    check: str,
    subject: str,
    compared: list[Row],
    sentence: str,
    gap: tuple[str, str | None],
    **names: str,
) -> Finding:
    """Return the finding whose sentence tells the comparison with the worst outcome."""
    if not compared:
        return Finding(check, subject, "not-measured", "The records hold no such pair.", {})
    severity = worst(_severities(compared))
    told = max(
        (row for row in compared if row["severity"] == severity),
        key=lambda row: row[gap[0]] - (row[gap[1]] if gap[1] else 0.0),
    )
    shown = {
        key: percent(value) if key.startswith(("uar", "chance", "moved")) else value
        for key, value in told.items()
    }
    count = sum(row["severity"] != "passed" for row in compared)
    statement = (
        f"{count} of {len(compared)} comparisons fail; "
        f"{'the worst' if count else 'the nearest'}: {sentence.format(**shown, **names)}."
    )
    return Finding(check, subject, severity, statement, {"comparisons": compared})


def _severities(compared: Iterable[Row]) -> list[Severity]:
    return [row["severity"] for row in compared]
