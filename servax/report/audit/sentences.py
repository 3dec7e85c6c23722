"""The sentences of an audit: for people who decide, for those who know the terms, and the terms.

The first paragraph has no term and no unit, and is graded by the figures. How loud a change is
stands in words too. Their borders are ours and rough: a noise 40 dB below speech is masked by it,
one at 25 dB is noticed by who listens for it, one at 15 dB by anybody.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd

from servax.evaluation.checks import SEVERITIES
from servax.evaluation.statistics import RESAMPLES, SEED
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import (
    ATTACKERS,
    CONTROL,
    KNOWING,
    UNKNOWING,
    Scores,
    Standing,
    below,
    black_box_only,
    judged,
    passes,
    untrusted,
    wanted,
)
from servax.report.predictions import UNDEFENDED
from servax.report.tables import listed, number, percent_sign, percentage, short

__all__ = ["definitions", "led", "size", "summary", "terms", "verdict"]

LOUDNESS = (
    (40.0, "a change that nobody hears"),
    (25.0, "a change that hardly anyone hears"),
    (15.0, "a faint noise"),
    (-math.inf, "a noise that everyone hears"),
)
"""From which signal-to-noise ratio on, in dB, a change is called what."""
DECIBELS = (
    (1.0, "a change of the spectrogram that nobody would hear"),
    (3.0, "a change of the spectrogram that hardly anyone would hear"),
    (math.inf, "a change of the spectrogram that could be heard"),
)
"""Up to how many dB a change of the log-Mel is called what; no sound need have that log-Mel."""
_COUNTED = ("error", "warning", "note")
"""Severities that have a plural."""
_NARROW = "\N{NO-BREAK SPACE}"


def size(result: AuditResult) -> str:
    """Return the radius as text: ``ε .02 (1.6 dB)``."""
    decibels = result.decibels(result.radius)
    known = f" ({number(decibels, digits=1)}{_NARROW}dB)" if decibels >= 0 else ""
    return f"ε{_NARROW}{short(result.radius)}{known}"


def best_looking(found: Scores) -> str | None:
    """Return the defence that keeps most against attackers who do not know it.

    Where none of those tried, the one that keeps most in the worst case; None without a defence
    that was attacked.
    """
    for knowledge in (UNKNOWING, ATTACKERS):
        left = {name: found.worst(name, knowledge) for name in found.defences}
        known = {name: kept.uar for name, kept in left.items() if kept is not None}
        if known:
            return max(known, key=lambda name: known[name])
    return None


def verdict(found: Scores) -> list[str]:
    """Return the findings in sentences, the one that matters most first.

    That no white-box attack was possible stands before everything that the others left.
    """
    result, best = found.result, best_looking(found)
    together = _together(found)
    shut = black_box_only(result)
    return [
        *([shut] if shut else []),
        *(together or _first(found, best)),
        *([] if together else _others(found, best)),
        *_led(result, best or UNDEFENDED),
        *_on_sound(result, best or UNDEFENDED),
        *([found.no_interval] if found.no_interval else []),
        *_checks(result),
        *_demanded(found),
    ]


def _first(found: Scores, best: str | None) -> list[str]:
    bare = found.worst(UNDEFENDED)
    chance = f"chance is {percent_sign(100 * found.chance)}"
    if best is None:
        clean = _told(found.clean(UNDEFENDED))
        what = f"the undefended model ({found.found.target})"
        untried = f" No attack was tried on {listed(found.defences)}." if found.defences else ""
        if bare is None:
            return [f"No attack was tried: this says nothing about safety.{untried}"]
        many = f"{len(bare.attacks)} attacks" if len(bare.attacks) > 1 else bare.attacks[0]
        return [
            f"The worst case over {many} leaves {what} {_told(bare)} UAR at "
            f"{size(found.result)}, of {clean} on clean input; {chance}.{untried}"
        ]
    left = found.worst(best) or found.clean(best)
    if found.worst(best, KNOWING) is None:
        start = (
            f"An attacker who can only ask {best} for its answers leaves it {_told(left)} UAR at "
            f"{size(found.result)}; no attacker who knows it was tried, who may leave less"
        )
    else:
        start = f"An attacker who knows {best} leaves it {_told(left)} UAR at {size(found.result)}"
    facing = found.worst(best, UNKNOWING)
    if facing is None or bare is None:
        rest = f", of {_told(found.clean(best))} on clean input; {chance}."
        return [start + rest]
    return [start + _lost(facing, bare, left), _sum(found, best, facing, bare, chance)]


def _together(found: Scores) -> list[str]:
    """Return the first sentences where several defences met all attackers and each gains."""
    bare = found.worst(UNDEFENDED)
    told, gains, lost, facing = [], [], [], []
    for name in found.defences:
        left, kept = found.worst(name), found.worst(name, UNKNOWING)
        if bare is None or left is None or kept is None or found.worst(name, KNOWING) is None:
            return []
        gain = 100 * (kept.uar - bare.uar)
        if gain <= 0.05:
            return []
        told.append(f"{name} {_told(left)}")
        gains.append(gain)
        lost.append(min(gain, 100 * (kept.uar - left.uar)))
        facing.append(f"{name} {_told(kept)} of {_told(found.clean(name))} on clean input")
    if bare is None or len(told) < 2:
        return []
    whole = all(gone >= gain for gone, gain in zip(lost, gains, strict=True))
    shares = listed([percentage(gain) for gain in gains])
    parts = [f"{percentage(a)} of {percentage(b)}" for a, b in zip(lost, gains, strict=True)]
    gone = f"all of the {shares}" if whole else listed(parts)
    return [
        f"An attacker who knows the defence leaves {listed(told)} UAR at {size(found.result)}: "
        f"{gone} points that they gain over the undefended model against attackers who do not know "
        "them are lost.",
        f"Against those who do not know it (oblivious, transfer) they keep {listed(facing)}; the "
        f"undefended model keeps {_told(bare)} in the worst case, of "
        f"{_told(found.clean(UNDEFENDED))}; chance is {percent_sign(100 * found.chance)}.",
    ]


def _lost(facing: Standing, bare: Standing, left: Standing) -> str:
    """Return the end of the first sentence: how much of the gain is lost."""
    gain = 100 * (facing.uar - bare.uar)
    if gain <= 0.05:
        return (
            ": against attackers who do not know it, it gains nothing over the undefended model "
            f"either ({_told(facing)} against {_told(bare)})."
        )
    gone = min(gain, 100 * (facing.uar - left.uar))
    all_of_it = gone >= gain
    share = "all" if all_of_it else "none" if gone < 0.05 else percentage(gone)
    return (
        f": {share} of the {percentage(gain)} points that it gains over the undefended model "
        "against attackers who do not know it are lost."
    )


def _sum(found: Scores, best: str, facing: Standing, bare: Standing, chance: str) -> str:
    return (
        f"Against those who do not know it (oblivious, transfer) {best} keeps {_told(facing)}, of "
        f"{_told(found.clean(best))} on clean input; the undefended model keeps {_told(bare)} in "
        f"the worst case, of {_told(found.clean(UNDEFENDED))}; {chance}."
    )


def _others(found: Scores, best: str | None) -> list[str]:
    left = {name: found.worst(name) for name in found.defences if name != best}
    told = [f"{name} {_told(kept)}" for name, kept in left.items() if kept is not None]
    if best is None or not told:
        return []
    return [f"The worst case over all attacks leaves {listed(told)}."]


def led(result: AuditResult) -> pd.DataFrame:
    """Return the measures of attacks that lead to a chosen class; empty where none was tried."""
    table = result.measures
    return table[table["success_rate"].notna()] if "success_rate" in table else table.iloc[:0]


def _led(result: AuditResult, system: str) -> list[str]:
    rows = led(result)
    rows = rows[rows["defence"] == system] if len(rows) else rows
    if rows.empty:
        return []
    rates = rows.set_index("towards")["success_rate"].astype(float)
    return [
        f"Led to a class of the attacker's choice, {system} gives it in "
        f"{percent_sign(100 * rates.min())} ({rates.idxmin()}) to "
        f"{percent_sign(100 * rates.max())} ({rates.idxmax()}) of the attempts."
    ]


def _on_sound(result: AuditResult, system: str) -> list[str]:
    """Return what the strongest log-Mel attack on a system is worth once it is sound."""
    table = result.realisability
    if table is None:
        return []
    rows = table[(table["defence"] == system) & table["knowledge"].isin(KNOWING)]
    rows = rows.dropna(subset=["uar_logmel", "uar_sound"])
    if rows.empty:
        return []
    row = rows.sort_values("uar_logmel", kind="stable").iloc[0]
    return [
        f"Turned into sound and written as 16-bit WAV, the {row['knowledge']} {row['attack']} on "
        f"{system} leaves {percent_sign(100 * row['uar_sound'])} instead of "
        f"{percent_sign(100 * row['uar_logmel'])}; the same way, without attack, leaves "
        f"{percent_sign(100 * row['uar_clean_round_trip'])}."
    ]


def _checks(result: AuditResult) -> list[str]:
    if not result.findings:
        return ["No sanity check was run, so nothing vouches for these numbers."]
    counts = Counter(finding.severity for finding in result.findings)
    words = {
        severity: f"{severity}s" if count > 1 and severity in _COUNTED else severity
        for severity, count in counts.items()
    }
    told = [f"{counts[s]} {words[s].replace('-', ' ')}" for s in SEVERITIES if counts[s]]
    sentence = f"Sanity checks: {listed(told)}."
    if counts["error"]:
        sentence += " Where a check found an error, the numbers above cannot be trusted."
    return [sentence]


def _demanded(found: Scores) -> list[str]:
    result = found.result
    if result.fail_under is None:
        return []
    asked = f"{listed(judged(found))} had {wanted(result)}"
    if passes(found):
        return [f"Passed: {asked}."]
    low = [f"{name} {kept}" for name, kept in below(found).items()]
    return [f"Failed: {asked}, but {listed(low + untrusted(result))}."]


def _told(standing: Standing) -> str:
    return percent_sign(100 * standing.uar)


def summary(found: Scores) -> list[str]:
    """Return what was found in plain sentences, what spoils the figures first."""
    shut = black_box_only(found.result)
    errors = sum(finding.severity == "error" for finding in found.result.findings)
    checks = "a check" if errors == 1 else f"{errors} checks"
    return [
        *([shut] if shut else []),
        *([f"Do not rely on these figures: {checks} of this audit found an error."] * bool(errors)),
        _model(found),
        *_defence(found),
    ]


def _model(found: Scores) -> str:
    clean, left = found.clean(UNDEFENDED), found.worst(UNDEFENDED)
    if left is None:
        return "Nobody attacked this model, so nothing is known of its safety."
    if (clean.uar if math.isnan(clean.low) else clean.low) <= found.chance:
        return "This model may be guessing even where nobody attacks it, so look at that first."
    lost, change = 1 - left.uar / clean.uar, _change(found.result)
    if 100 * left.uar < 0.05:
        return f"This model is easily fooled: {change} turns every answer wrong."
    wrong = f"{change} turns {_of_hundred(lost)} right answers wrong."
    if lost >= 0.5:
        return f"This model is easily fooled: {wrong}"
    if lost >= 0.1:
        return f"This model can be fooled: {wrong}"
    if 100 * lost >= 0.05:
        return f"This model was hard to fool with the attacks that were tried: {wrong}"
    return (
        "None of the attacks that were tried fooled this model; an attack that nobody tried may "
        "do so."
    )


def _defence(found: Scores) -> list[str]:
    """Return what the best defence is worth against everyone who attacked it."""
    kept = {name: found.worst(name) for name in found.defences}
    left = {name: standing for name, standing in kept.items() if standing is not None}
    bare = found.worst(UNDEFENDED)
    if not left or bare is None:
        return []
    best = max(left, key=lambda name: left[name].uar)
    several = f"The best of its {len(left)} defences, {best},"
    what = several if len(left) > 1 else f"The defence {best}"
    known = found.worst(best, KNOWING) is not None
    who = "an attacker who knows it" if known else "attackers who can only ask for answers"
    if 100 * (left[best].uar - bare.uar) < 1:
        return [f"{what} does not protect it from {who}."]
    shares = [_kept(left[best], found.clean(best)), _kept(bare, found.clean(UNDEFENDED))]
    return [
        f"{what} helps against {who}: it keeps {_of_hundred(shares[0])} right answers, the model "
        f"alone {_of_hundred(shares[1])}."
    ]


def _kept(left: Standing, clean: Standing) -> float:
    return left.uar / clean.uar if clean.uar else 0.0


def _of_hundred(share: float) -> str:
    """Return a share as people say it: ``37 of 100``."""
    count = round(100 * share)
    return f"{count} of 100" if count or not share else "fewer than 1 of 100"


def _change(result: AuditResult) -> str:
    """Return how loud the change is that fools, in words."""
    ratio = _signal_to_noise(result)
    if math.isfinite(ratio):
        return next(words for least, words in LOUDNESS if ratio >= least)
    decibels = result.decibels(result.radius)
    if math.isfinite(decibels):
        return next(words for most, words in DECIBELS if decibels <= most)
    return "a small change of the input"


def _signal_to_noise(result: AuditResult) -> float:
    """Return the median ratio of speech to change in the attacked sounds, in dB, or ``nan``."""
    table = result.measures
    # What was made into sound is another attack than the one whose harm is told.
    if not result.on_sound or "median_snr_db" not in table:
        return math.nan
    known = table[table["knowledge"].isin(KNOWING)]["median_snr_db"].dropna().astype(float)
    return float(np.median(known)) if len(known) else math.nan


MEANING = {
    "oblivious": "takes gradients of the bare model and does not know that there is a defence",
    "transfer": "takes gradients of a surrogate, a model with weights of its own, and knows "
    "nothing else",
    "black_box": "asks the whole system for its answers, scores or decisions, and has no gradients",
    "bpda": "knows the whole system, and lets gradients pass the defence unchanged (backward pass "
    "differentiable approximation, Athalye et al. 2018)",
    "adaptive": "knows the whole system and takes exact gradients through the defence, averaged "
    "over draws where it is random",
}


NAMES = {k: k.replace("_", " ").capitalize() for k in ATTACKERS} | {"bpda": "BPDA"}


def terms(found: Scores) -> list[str]:
    """Return what the words of the verdict mean, a sentence or two each."""
    conditions = [c for system in found.systems for c in found.conditions(system)]
    tried = {c.knowledge for c in conditions}
    return [
        "UAR, unweighted average recall, is the mean of the recalls of the classes (the share of "
        "a class that is recognised), in percent. "
        f"Chance is 1/K: {100 * found.chance:.1f} % for {len(found.found.classes)} classes.",
        *(f"{NAMES[k]}: the attacker {MEANING[k]}." for k in ATTACKERS if k in tried),
        "Worst case: an utterance counts as kept only where every attack of the group fails, "
        "since an attacker picks the attack after seeing the utterance. It is no higher than the "
        "UAR of any single attack, and it is the number to quote.",
        f"The audited size is {size(found.result)}. What moved less counts too: it lies within.",
    ]


def definitions(found: Scores) -> list[str]:
    """Return what the other words and columns mean, one sentence or two each."""
    conditions = [c for system in found.systems for c in found.conditions(system)]
    sound = (
        "An attack on the sound before the front-end has a budget of its own, so it stands in "
        "the table of attacks and in no worst case."
    )
    noise = "Noise is random, of the same size: no attack, but what it fools is fooled."
    intervals = (
        f"Intervals are 95 % percentile bootstraps over speakers ({RESAMPLES} draws, seed {SEED}): "
        "whole speakers are drawn."
    )
    return [
        *([sound] if any(map(found.apart, conditions)) else []),
        *([noise] if any(c.attack == CONTROL for c in conditions) else []),
        f"{found.no_interval or intervals} A dash means not measured or not defined.",
    ]
