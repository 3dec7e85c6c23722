"""The verdict of an audit in sentences; the first says what an attacker who knows all leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from servax.evaluation.checks import SEVERITIES
from servax.evaluation.statistics import no_interval
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import KNOWING, UNKNOWING, Scores, Standing
from servax.report.audit.threshold import below, black_box_only, judged, passes, untrusted, wanted
from servax.report.outcomes import UNDEFENDED
from servax.report.wording import number, percent_sign, percentage

__all__ = ["best_looking", "led", "size", "verdict"]

_NARROW = "\N{NO-BREAK SPACE}"


def size(result: AuditResult, strength: float | None = None) -> str:
    """Return a strength as text, by default the radius: ``ε .02 (1.6 dB)``."""
    value = result.radius if strength is None else strength
    decibels = number(result.decibels(value), digits=1)
    told = f"{value:g}".replace("0.", ".", 1)
    known = result.decibels(value) >= 0
    return f"ε{_NARROW}{told}" + (f" ({decibels}{_NARROW}dB)" if known else "")


def best_looking(found: Scores) -> str | None:
    """Return the defence that keeps most against attackers who do not know it.

    Where none of those tried, the one that keeps most in the worst case; None without a defence
    that was attacked.
    """
    for knowledge in (UNKNOWING, (*UNKNOWING, "black_box", *KNOWING)):
        left = {name: found.worst(name, knowledge) for name in found.defences}
        known = {name: kept.uar for name, kept in left.items() if kept is not None}
        if known:
            return max(known, key=lambda name: known[name])
    return None


def verdict(result: AuditResult, found: Scores) -> list[str]:
    """Return the findings in sentences, the one that matters most first.

    That no white-box attack was possible stands before everything that the others left.
    """
    best = best_looking(found)
    together = _together(result, found)
    shut = black_box_only(result)
    return [
        *([shut] if shut else []),
        *(together or _first(result, found, best)),
        *([] if together else _others(found, best)),
        *_led(result, best or UNDEFENDED),
        *_on_sound(result, best or UNDEFENDED),
        *filter(None, [no_interval(found.speakers)]),
        *_checks(result),
        *_demanded(result, found),
    ]


def _first(result: AuditResult, found: Scores, best: str | None) -> list[str]:
    bare = found.worst(UNDEFENDED)
    chance = f"chance is {percent_sign(100 * found.chance)}"
    if best is None:
        clean = _told(found.clean(UNDEFENDED))
        what = f"the undefended model ({found.outcomes.target})"
        untried = f" No attack was tried on {_listed(found.defences)}." if found.defences else ""
        if bare is None:
            return [f"No attack was tried: this says nothing about safety.{untried}"]
        return [
            f"The worst case over {_count(bare.attacks)} leaves {what} {_told(bare)} UAR at "
            f"{size(result)}, of {clean} on clean input; {chance}.{untried}"
        ]
    left = found.worst(best) or found.clean(best)
    if found.worst(best, KNOWING) is None:
        start = (
            f"An attacker who can only ask {best} for its answers leaves it {_told(left)} UAR at "
            f"{size(result)}; no attacker who knows it was tried, who may leave less"
        )
    else:
        start = f"An attacker who knows {best} leaves it {_told(left)} UAR at {size(result)}"
    facing = found.worst(best, UNKNOWING)
    if facing is None or bare is None:
        rest = f", of {_told(found.clean(best))} on clean input; {chance}."
        return [start + rest]
    return [start + _lost(facing, bare, left), _sum(found, best, facing, bare, chance)]


def _together(result: AuditResult, found: Scores) -> list[str]:
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
    shares = _listed([percentage(gain) for gain in gains])
    parts = [f"{percentage(a)} of {percentage(b)}" for a, b in zip(lost, gains, strict=True)]
    gone = f"all of the {shares}" if whole else _listed(parts)
    return [
        f"An attacker who knows the defence leaves {_listed(told)} UAR at {size(result)}: {gone} "
        "points that they gain over the undefended model against attackers who do not know them "
        "are lost.",
        f"Against those who do not know it (oblivious, transfer) they keep {_listed(facing)}; the "
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
    return [f"The worst case over all attacks leaves {_listed(told)}."]


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
    told = [f"{counts[s]} {_plural(s, counts[s])}" for s in SEVERITIES if counts[s]]
    sentence = f"Sanity checks: {_listed(told)}."
    if counts["error"]:
        sentence += " Where a check found an error, the numbers above cannot be trusted."
    return [sentence]


def _plural(severity: str, count: int) -> str:
    word = severity.replace("-", " ")
    return f"{word}s" if count > 1 and severity in ("error", "warning", "note") else word


def _demanded(result: AuditResult, found: Scores) -> list[str]:
    if result.fail_under is None:
        return []
    asked = f"{_listed(judged(found))} had {wanted(result)}"
    if passes(result, found):
        return [f"Passed: {asked}."]
    low = [f"{name} {kept}" for name, kept in below(result, found).items()]
    return [f"Failed: {asked}, but {_listed(low + untrusted(result))}."]


def _count(attacks: Sequence[str]) -> str:
    return f"{len(attacks)} attacks" if len(attacks) > 1 else attacks[0]


def _told(standing: Standing) -> str:
    return percent_sign(100 * standing.uar)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
