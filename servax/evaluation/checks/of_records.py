"""Checks of a table of records: does an attack get stronger where it must, is all there and true?

All are functions of the records of one system (`servax.evaluation.records`), whose index is the
utterance with its fold and seed. An utterance is broken when its
prediction is not its label. UARs are compared on the utterances that both conditions hold, with a
tolerance of one utterance; of a random system, whose answers are one draw each, with that of two
standard errors (McNemar 1947). Source: Carlini et al. 2019, "On evaluating adversarial robustness",
section 4 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from servax.evaluation.checks.declared import SEVERITIES, RecordCheck, Severity, Verdict, percent
from servax.evaluation.metrics import confusion, uar
from servax.evaluation.records import KNOWING, UNDEFENDED, worst_case
from servax.evaluation.statistics import FEWEST_SPEAKERS, Interval, SpeakerDraws, interval_of

NOISE = "noise"
"""Name under which random noise stands, whatever its knowledge."""
POINT = 0.01
"""A point of UAR."""
FEWEST_GAINED = 0.1
"""Gain in UAR below which another order of the classes is no sign of wrong labels."""
MASKED_SHARE = 0.02
"""Share of utterances that only a weaker attacker breaks, above which it is no accident."""
Row = dict[str, Any]


def white_box(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of attackers who know the system; noise is not meant to break anything.

    Nothing stands before the bare target, so its oblivious attack is a white-box one.
    """
    bare = (rows["defence"] == UNDEFENDED) & (rows["knowledge"] == "oblivious")
    return rows[(rows["knowledge"].isin(KNOWING) | bare) & (rows["attack"] != NOISE)]


def _at(rows: pd.DataFrame, strength: float, attack: str | None = None) -> pd.DataFrame:
    """Return the rows at one strength, of one attack or of all."""
    rows = rows[np.isclose(rows["strength"], strength, rtol=1e-6)]
    return rows if attack is None else rows[rows["attack"] == attack]


def _conditions(rows: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Yield attack, strength and rows of each attacked condition, sorted."""
    for (attack, strength), part in rows.groupby(["attack", "strength"]):
        if attack != "none":
            yield str(attack), float(str(strength)), part


def _broken(rows: pd.DataFrame) -> pd.Index[Any]:
    """Return the utterances with a wrong prediction."""
    return rows.index[rows["prediction"] != rows["label"]]


def _score(rows: pd.DataFrame) -> float:
    return uar(rows["label"].to_numpy(object), rows["prediction"].to_numpy(object))


def by_chance(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return by how many utterances two conditions may differ and be alike.

    One; of a random system, d of whose answers are right under one of them only, two standard
    errors of that difference, 2 sqrt(d).
    """
    if not (first["random"].any() or second["random"].any()):
        return 1.0
    shared = first.index.intersection(second.index)
    broken = [_broken(rows).intersection(shared) for rows in (first, second)]
    return max(1.0, 2.0 * math.sqrt(len(broken[0].symmetric_difference(broken[1]))))


def one_utterance(rows: pd.DataFrame) -> float:
    """Return by how much the UAR moves, at most, when one utterance changes sides."""
    counts = rows["label"].value_counts()
    return float(1.0 / (len(counts) * counts.min()))


def pair(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, float, float] | None:
    """Return the UARs of two conditions on the utterances that both hold, None without any.

    Returns:
        UAR of the first, of the second, and what they may differ by, with room for rounding.
    """
    here, there = first[first.index.isin(second.index)], second[second.index.isin(first.index)]
    if here.empty:
        return None
    tolerance = by_chance(here, there) * one_utterance(here) + 1e-9
    return _score(here), _score(there), tolerance


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with each utterance once: of two kinds of knowledge, the worse outcome."""
    right = (rows["prediction"] == rows["label"]).to_numpy()
    rows = rows.iloc[np.argsort(right, kind="stable")]
    return rows[~rows.index.duplicated()]


def _by_knowledge(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, Severity]]:
    """Yield the rows of each knowledge, and how bad it is when they are as they must not be."""
    for knowledge, part in rows.groupby("knowledge"):
        yield str(knowledge), part, "warning" if white_box(part).empty else "error"


def _compared(
    said: Row,
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, str],
    rule: Severity,
    idle: Severity = "passed",
) -> list[Row]:
    """Return the comparison of two conditions, or none where they share no utterance.

    Args:
        said: What tells the conditions.
        first: Rows under which the UAR should be the higher one, up to an utterance.
        second: Rows of the stronger condition.
        names: What the two UARs are called.
        rule: How bad it is where the second is higher.
        idle: How bad it is where the second is not lower, though there was something to lose.
    """
    found = pair(first, second)
    if found is None:
        return []
    before, after, tolerance = found
    lost = after < before - min(tolerance, one_utterance(first) + 1e-9) or after == 0
    severity = rule if after > before + tolerance else "passed" if lost else idle
    return [{**said, **dict(zip(names, (before, after), strict=True)), "severity": severity}]


def _worst(compared: Sequence[Row], sentence: str, gap: tuple[str, str | None]) -> Verdict:
    """Return the verdict whose sentence tells the comparison with the worst outcome.

    Args:
        compared: Comparisons, each with its numbers and its severity.
        sentence: What is said of one, with the names of its numbers in braces.
        gap: The number that counts, and the one it is compared with.
    """
    if not compared:
        return "not-measured", "The records hold no such pair.", {}
    severity = min((row["severity"] for row in compared), key=SEVERITIES.index)
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
        f"{'the worst' if count else 'the nearest'}: {sentence.format(**shown)}."
    )
    return severity, statement, {"comparisons": list(compared)}


@partial(RecordCheck, among="all")
def clean_score(rows: pd.DataFrame) -> Verdict:
    """Say whether a system recognises anything at all without an attack.

    `warning`: the 95 % interval of the clean UAR (bootstrap over speakers, over utterances where
    there are fewer than 5) reaches down to chance, one over the number of classes in the records:
    a head without training, labels in another order, or sound that the model does not understand;
    or another order of its classes scores higher, on all of the interval. `not-measured`: no clean
    rows.
    """
    clean = rows[rows["attack"] == "none"]
    if clean.empty:
        return "not-measured", "The records hold no clean input.", {}
    labels, predictions = (
        clean[name].to_numpy(object).astype(str) for name in ("label", "prediction")
    )
    chance, found = 1.0 / len(np.unique(labels)), uar(labels, predictions)
    order = _best_order(labels, predictions)
    reordered = np.array([order.get(name, name) for name in predictions])
    best = uar(labels, reordered)
    by = "speaker" if clean["speaker"].nunique() >= FEWEST_SPEAKERS else "utterance"
    # One utterance alone has no interval: it is all that is known.
    shown, gain = Interval(found, found), Interval(best - found, best - found)
    if len(clean[by].unique()) > 1:
        draws = SpeakerDraws(clean[by].to_numpy(object).astype(str))
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
    return severity, f"{told}.", evidence


def _best_order(labels: np.ndarray, predictions: np.ndarray) -> dict[str, str]:
    """Return for each predicted class the one that it would have to be called to score best."""
    names = np.unique(labels)
    every = [*names, *np.setdiff1d(predictions, names)]
    counts = confusion(labels, predictions, every)[: len(names), : len(names)]
    shares = counts / np.unique(labels, return_counts=True)[1][:, None]
    true, called = linear_sum_assignment(shares, maximize=True)
    return {str(names[k]): str(names[i]) for i, k in zip(true, called, strict=True)}


@partial(RecordCheck, needs="white-box", among="one size")
def pgd_at_least_fgsm(rows: pd.DataFrame) -> Verdict:
    """Say whether many steps are at least as strong as one: UAR under PGD is not above FGSM's.

    `error`: it is, for an attacker who knows the system. `warning`: it is, for one who does not;
    many steps may then fit the wrong model. `not-measured`: no strength in common.
    """
    compared = []
    for knowledge, part, rule in _by_knowledge(rows):
        for _, strength, one_step in _conditions(part[part["attack"] == "fgsm"]):
            said = {"knowledge": knowledge, "epsilon": strength, "strength": strength}
            many = _at(part, strength, "pgd")
            compared += _compared(said, one_step, many, ("uar_fgsm", "uar_pgd"), rule)
    told = "UAR under pgd {uar_pgd} against {uar_fgsm} under fgsm of the same size"
    return _worst(compared, told, ("uar_pgd", "uar_fgsm"))


@partial(RecordCheck, needs="white-box")
def twice_the_steps(rows: pd.DataFrame) -> Verdict:
    """Say whether the attack has converged: twice the steps move the UAR by less than a point.

    `warning`: they move it by a point or more, and by more than one utterance (which is worth more
    than a point where a class has few). `not-measured`: no strength and knowledge in common.
    """
    told = "UAR {uar} under pgd of strength {strength:g}, {uar_doubled} with twice the steps"
    return _worst(_doubled(rows, "pgd", "pgd-2x"), told, ("moved", None))


@partial(RecordCheck, needs="white-box")
def twice_the_draws(rows: pd.DataFrame) -> Verdict:
    """Say whether the gradient of a random system was averaged over enough draws.

    Severities as of `twice_the_steps`, of attacks with half of the draws and with all of them.
    """
    if not rows["random"].any():
        return "not-measured", "The answers are not random, so that there are no draws.", {}
    most = rows.loc[rows["attack"] == "pgd", "draws"].max()
    told = f"UAR {{uar}} under pgd with half of the {most} draws, {{uar_doubled}} with all of them"
    return _worst(_doubled(rows, "pgd-half-draws", "pgd"), told, ("moved", None))


def _doubled(rows: pd.DataFrame, one: str, twice: str) -> list[Row]:
    """Return the comparisons of an attack with one that spends twice as much on something."""
    compared = []
    for knowledge, part, _ in _by_knowledge(rows):
        for _, strength, once in _conditions(part[part["attack"] == one]):
            found = pair(once, _at(part, strength, twice))
            if found is not None:
                moved = abs(found[1] - found[0])
                moves = moved >= POINT and moved > found[2]
                compared.append(
                    {
                        "knowledge": knowledge,
                        "strength": strength,
                        "uar": found[0],
                        "uar_doubled": found[1],
                        "moved": moved,
                        "severity": "warning" if moves else "passed",
                    }
                )
    return compared


@partial(RecordCheck, needs="white-box", among="one size")
def white_box_at_least_black_box(rows: pd.DataFrame) -> Verdict:
    """Say whether knowing the system helps: what others break, a white-box attack breaks too.

    An utterance that a black-box, transfer or oblivious attack breaks, but no white-box attack of
    the same strength, is evidence of gradient masking (Athalye et al. 2018). `error`: more than
    2 % of the utterances at some strength. `warning`: any. `not-measured`: no strength that both
    kinds of attacker have. Of a random system some fall to anybody by chance: those count that are
    more than fall to white-box attacks alone, and more than chance makes them.
    """
    known = white_box(rows)
    others = rows[~rows["knowledge"].isin(["none", *known["knowledge"]])]
    compared: list[Row] = []
    for strength in sorted(known["strength"].unique()):
        here, there = _at(known, strength), _at(others, strength)
        shared = here.index.intersection(there.index)
        if len(shared):
            missed = _broken(there).intersection(shared).difference(_broken(here))
            found = _broken(here).intersection(shared).difference(_broken(there))
            if here["random"].any() and len(missed) - len(found) <= by_chance(here, there):
                missed = missed[:0]
            compared.append(
                {
                    "strength": float(strength),
                    "utterances": len(shared),
                    "missed": [str(name) for name, *_ in missed],
                    "share": len(missed) / len(shared),
                }
            )
    if not compared:
        told = "No strength has both a white-box attack and one by an attacker who knows less."
        return "not-measured", told, {}
    most = max(compared, key=lambda row: row["share"])
    share = float(most["share"])
    severity: Severity = "error" if share > MASKED_SHARE else "warning" if share else "passed"
    told = (
        f"{len(most['missed'])} of {most['utterances']} utterances ({percent(share)}) are broken "
        "by an attacker who knows less but by no white-box attack of the same strength "
        f"({most['strength']:g})."
    )
    return severity, told, {"strengths": compared}


@partial(RecordCheck, needs="white-box")
def noise_weaker(rows: pd.DataFrame) -> Verdict:
    """Say whether white-box attacks do more than random noise of the same size.

    `error`: the UAR under some attack is above that under noise by more than an utterance.
    `warning`: it is not below by more than that, and not 0. `not-measured`: no noise of the same
    strength as a white-box attack.
    """
    compared = []
    for attack, strength, part in _conditions(white_box(rows)):
        quiet = _once(_at(rows, strength, NOISE))
        said = {"attack": attack, "strength": strength}
        names = ("uar_noise", "uar_attack")
        compared += _compared(said, quiet, _once(part), names, "error", idle="warning")
    told = "UAR {uar_attack} under {attack}, {uar_noise} under noise of strength {strength:g}"
    return _worst(compared, told, ("uar_attack", "uar_noise"))


@RecordCheck
def uar_falls_with_strength(rows: pd.DataFrame) -> Verdict:
    """Say whether the UAR never rises with the strength of an attack, from clean input on.

    `error`: it rises by more than an utterance, for an attacker who knows the system. `warning`: it
    does, for one who does not. `not-measured`: fewer than two strengths, clean input counted.
    """
    clean = rows[rows["attack"] == "none"]
    compared = []
    for attack, every in rows[rows["attack"] != "none"].groupby("attack"):
        for knowledge, part, rule in _by_knowledge(every):
            steps = [(strength, some) for _, strength, some in _conditions(part)]
            for (low, before), (high, after) in pairwise([(0.0, clean), *steps]):
                said = {"attack": str(attack), "knowledge": knowledge, "from": low, "to": high}
                compared += _compared(said, before, after, ("uar_from", "uar_to"), rule)
    told = "UAR under {attack} {uar_to} at strength {to:g} against {uar_from} at {from:g}"
    return _worst(compared, told, ("uar_to", "uar_from"))


@partial(RecordCheck, needs="defences", with_bare=True)
def attack_breaks_undefended(rows: pd.DataFrame) -> Verdict:
    """Say whether each white-box attack on a defence breaks the undefended twin.

    Both are compared at the largest strength of the attack on the defence. `error`: the twin's UAR
    stays above chance (1 / classes) under each of them, so the attacks are at fault. `warning`: it
    does under some, which add nothing to those that break it. `not-measured`: no white-box attack
    on the defence, or none with its name and strength on the twin.
    """
    bare = rows["defence"] == UNDEFENDED
    known, twins = white_box(rows[~bare]), white_box(rows[bare])
    chance = 1.0 / rows[~bare]["label"].nunique()
    largest = {attack: (strength, part) for attack, strength, part in _conditions(known)}
    compared = []
    for attack, (strength, part) in largest.items():
        twin = _once(_at(twins, strength, attack))
        if not twin.empty:
            compared.append(
                {
                    "attack": attack,
                    "strength": strength,
                    "uar_undefended": _score(twin),
                    "uar_defended": _score(_once(part)),
                    "chance": chance,
                    "severity": "warning" if _score(twin) > chance + 1e-9 else "passed",
                }
            )
    if all(row["severity"] == "warning" for row in compared):
        compared = [{**row, "severity": "error"} for row in compared]
    told = "UAR {uar_undefended} of the undefended twin under {attack} of strength {strength:g}"
    return _worst(compared, told + ", chance {chance}", ("uar_undefended", None))


@partial(RecordCheck, among="all")
def knowledge_complete(
    rows: pd.DataFrame, *, eot_draws: Mapping[str, int] | None = None
) -> Verdict:
    """Say whether each defence met an attacker who knows it, and EOT where it is random.

    `error`: oblivious, transfer or black-box results without an adaptive or BPDA one; or a random
    defence whose gradients were not averaged over draws (expectation over transformation, Athalye
    et al. 2018). `not-measured`: no attack at all. An oblivious attacker of the bare target knows
    it; one who only asks it, or attacks another model, does not.

    Args:
        rows: Records.
        eot_draws: Draws per gradient in the white-box attacks, of each defence that is random.
    """
    name, every = str(rows["defence"].iloc[0]), eot_draws or {}
    attacked = rows[rows["attack"] != "none"]
    counts = {str(k): int(v) for k, v in attacked.groupby("knowledge").size().items()}
    draws = every.get(name, 1)
    severity: Severity = "error"
    if not counts:
        severity, told = "not-measured", "The records hold no attack."
    elif white_box(attacked).empty:
        told = f"Only {', '.join(sorted(counts))} attacks: no attacker who knows the system."
    elif name in every and draws < 2:
        told = "The defence is random, but gradients were taken from single draws, without EOT."
    else:
        severity, told = "passed", f"Attacked with knowledge {', '.join(sorted(counts))}."
    return severity, told, {"rows": counts, "random": name in every, "eot_draws": draws}


@RecordCheck
def worst_case_below_minimum(rows: pd.DataFrame) -> Verdict:
    """Give the worst case of each utterance beside the lowest mean of an attack.

    `note`: at some strength the worst case over attacks is lower by a point or more: it is the
    figure to report. `passed`: the strongest attack is as good as all together. `not-measured`: no
    strength and knowledge has two attacks.
    """
    compared: list[Row] = []
    attacked = rows[rows["attack"] != "none"]
    for (knowledge, _), part in attacked.groupby(["knowledge", "strength"]):
        part = part.drop(columns="random")
        means = {str(name): _score(some) for name, some in part.groupby("attack")}
        if len(means) > 1:
            strongest = min(means, key=lambda name: means[name])
            compared.append(
                {
                    "knowledge": str(knowledge),
                    "strength": float(part["strength"].iloc[0]),
                    "uar_worst_case": _score(worst_case(part, knowledge=str(knowledge))),
                    "uar_minimum": means[strongest],
                    "strongest": strongest,
                    "uar_attacks": means,
                }
            )
    if not compared:
        return "not-measured", "No strength and knowledge has two attacks.", {}
    most = max(compared, key=lambda row: row["uar_minimum"] - row["uar_worst_case"])
    gap = most["uar_minimum"] - most["uar_worst_case"]
    told = (
        f"Over {len(most['uar_attacks'])} {most['knowledge']} attacks of strength "
        f"{most['strength']:g} the UAR of the worst case is {percent(most['uar_worst_case'])}, the "
        f"lowest mean ({most['strongest']}) {percent(most['uar_minimum'])}."
    )
    return "note" if gap >= POINT else "passed", told, {"conditions": compared}
