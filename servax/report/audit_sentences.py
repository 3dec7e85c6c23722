"""The sentences of an audit: for people who decide, for those who know the terms, and the terms.

The first paragraph has no term and no unit, and is graded by the figures. How loud a change is
stands in words too. Their borders are ours and rough: a noise 40 dB below speech is masked by it,
one at 25 dB is noticed by who listens for it, one at 15 dB by anybody.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from servax.evaluation.checks import SEVERITIES
from servax.evaluation.distortion import ANOTHER, words_understood
from servax.evaluation.records import KNOWING, UNDEFENDED, WORST_CASE
from servax.evaluation.statistics import RESAMPLES, SEED
from servax.perturbation import ratio_of
from servax.report.audit_result import CONTROL, UNKNOWING, AuditResult
from servax.report.predictions import Standing
from servax.report.rendering import words
from servax.report.tables import listed, number, percent_sign, percentage, short
from servax.runtime.host import INSTALL

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
FOOLED = (
    (0.5, "This model is easily fooled"),
    (0.1, "This model can be fooled"),
    (0.0005, "This model was hard to fool with the attacks that were tried"),
)
"""From which share of the right answers on that turn wrong a model is called what."""
WORDS = (
    (0.95, "leaves its words as they are"),
    (0.5, "blurs its words"),
    (0.0, "loses its words, so what the model answers is not about the speech that went in"),
)
"""From which share of words that listeners would understand on a defence is said to do what."""
QUALITY = ((4.5, "excellent"), (3.5, "good"), (2.5, "fair"), (1.5, "poor"), (-math.inf, "bad"))
"""From which mean opinion score on a sound is called what: the scale of ITU-T P.800, rounded."""
AS_FAR = 0.5
"""From which share of the distance to another clip on a log-Mel is no longer the one before."""
_COUNTED = ("error", "warning", "note")
"""Severities that have a plural."""
_NARROW = "\N{NO-BREAK SPACE}"
_LEAST = 0.05  # points that a percentage with one decimal shows


def size(audit: AuditResult) -> str:
    """Return the radius as text: ``ε .02 (1.6 dB)``, or the signal-to-noise ratio that it is."""
    if audit.by_ratio:
        return f"a signal-to-noise ratio of {ratio_of(audit.radius):.4g}{_NARROW}dB"
    decibels = audit.decibels(audit.radius)
    known = f" ({number(decibels, digits=1)}{_NARROW}dB)" if decibels >= 0 else ""
    return f"ε{_NARROW}{short(audit.radius)}{known}"


class _Worth(NamedTuple):
    """What a defence is worth against those who know it and those who do not."""

    name: str
    clean: Standing
    left: Standing | None
    """In the worst case over all attackers."""
    facing: Standing | None
    """In the worst case over those who do not know it."""
    known: bool
    """Whether anybody attacked it who knows it."""
    gain: float
    """Points over the undefended model, against those who do not know it; ``nan`` if unknown."""

    @property
    def lost(self) -> float:
        """Points of the gain that those take who know it."""
        if self.facing is None or self.left is None:
            return math.nan
        return min(self.gain, 100 * (self.facing.uar - self.left.uar))


def _worth(audit: AuditResult, name: str) -> _Worth:
    bare, facing = audit.worst(UNDEFENDED), audit.worst(name, UNKNOWING)
    gain = math.nan if bare is None or facing is None else 100 * (facing.uar - bare.uar)
    known = audit.worst(name, KNOWING) is not None
    return _Worth(name, audit.clean(name), audit.worst(name), facing, known, gain)


def _best_looking(worths: list[_Worth]) -> _Worth | None:
    """Return the defence that keeps most against attackers who do not know it.

    Where none of those tried, the one that keeps most in the worst case; None without a defence
    that was attacked.
    """
    for kept in ([w.facing for w in worths], [w.left for w in worths]):
        known = [(w, k.uar) for w, k in zip(worths, kept, strict=True) if k is not None]
        if known:
            return max(known, key=lambda pair: pair[1])[0]
    return None


def verdict(audit: AuditResult) -> list[str]:
    """Return the findings in sentences, the one that matters most first.

    That no white-box attack was possible stands before everything that the others left.
    """
    worths = [_worth(audit, name) for name in audit.defences]
    best = _best_looking(worths)
    shown = best.name if best else UNDEFENDED
    return [
        *audit.black_box_only,
        *_kept(audit, worths, best),
        *_again(audit, shown),
        *_led(audit, shown),
        *_on_sound(audit, shown),
        *_same_speech(audit),
        *filter(None, [audit.no_interval]),
        *_checks(audit),
        *_demanded(audit),
    ]


def _kept(audit: AuditResult, worths: list[_Worth], best: _Worth | None) -> list[str]:
    """Return what is left of every defence, or else of the best and the others, or the model."""
    if best is None:
        return [_alone(audit)]
    if len(worths) > 1 and all(w.known and w.gain > _LEAST for w in worths):
        return _together(audit, worths)
    others = [f"{w.name} {w.left.told}" for w in worths if w is not best and w.left is not None]
    rest = [f"The worst case over all attacks leaves {listed(others)}."] if others else []
    return [*_one(audit, best), *rest]


def _chance(audit: AuditResult) -> str:
    return f"chance is {percent_sign(100 * audit.chance)}"


def _alone(audit: AuditResult) -> str:
    bare = audit.worst(UNDEFENDED)
    untried = f" No attack was tried on {listed(audit.defences)}." if audit.defences else ""
    if bare is None:
        return f"No attack was tried: this says nothing about safety.{untried}"
    many = f"{len(bare.attacks)} attacks" if len(bare.attacks) > 1 else bare.attacks[0]
    return (
        f"The worst case over {many} leaves the undefended model ({audit.found.target}) "
        f"{bare.told} UAR at {size(audit)}, of {audit.clean(UNDEFENDED).told} on clean input; "
        f"{_chance(audit)}.{untried}"
    )


def _one(audit: AuditResult, best: _Worth) -> list[str]:
    bare, left = audit.worst(UNDEFENDED), best.left or best.clean
    leaves = f"{left.told} UAR at {size(audit)}"
    start = (
        f"An attacker who knows {best.name} leaves it {leaves}"
        if best.known
        else f"An attacker who can only ask {best.name} for its answers leaves it {leaves}; no "
        "attacker who knows it was tried, who may leave less"
    )
    if best.facing is None or bare is None:
        return [f"{start}, of {best.clean.told} on clean input; {_chance(audit)}."]
    if best.gain <= _LEAST:
        lost = (
            "against attackers who do not know it, it gains nothing over the undefended model "
            f"either ({best.facing.told} against {bare.told})"
        )
    else:
        whole = "all" if best.lost >= best.gain else percentage(best.lost)
        lost = (
            f"{'none' if best.lost < _LEAST else whole} of the {percentage(best.gain)} points that "
            "it gains over the undefended model against attackers who do not know it are lost"
        )
    return [
        f"{start}: {lost}.",
        f"Against those who do not know it (oblivious, transfer) {best.name} keeps "
        f"{best.facing.told}, of {best.clean.told} on clean input; {_undefended(audit, bare)}.",
    ]


def _together(audit: AuditResult, worths: list[_Worth]) -> list[str]:
    """Return the first sentences where several defences met all attackers and each gains."""
    left, facing, parts = [], [], []
    for w in worths:
        if w.left is not None and w.facing is not None:
            left.append(f"{w.name} {w.left.told}")
            facing.append(f"{w.name} {w.facing.told} of {w.clean.told} on clean input")
            parts.append(f"{percentage(w.lost)} of {percentage(w.gain)}")
    whole = all(w.lost >= w.gain for w in worths)
    gone = f"all of the {listed([percentage(w.gain) for w in worths])}" if whole else listed(parts)
    bare = audit.worst(UNDEFENDED) or audit.clean(UNDEFENDED)
    return [
        f"An attacker who knows the defence leaves {listed(left)} UAR at {size(audit)}: {gone} "
        "points that they gain over the undefended model against attackers who do not know them "
        "are lost.",
        f"Against those who do not know it (oblivious, transfer) they keep {listed(facing)}; "
        f"{_undefended(audit, bare)}.",
    ]


def _undefended(audit: AuditResult, bare: Standing) -> str:
    return (
        f"the undefended model keeps {bare.told} in the worst case, of "
        f"{audit.clean(UNDEFENDED).told}; {_chance(audit)}"
    )


def _again(audit: AuditResult, system: str) -> list[str]:
    """Return what is left of a random system that is asked again and again."""
    table = audit.answers
    rows = [] if table is None else table[table["defence"] == system].to_dict("records")
    found = {row["attack"]: row for row in rows}
    if WORST_CASE not in found:
        return []
    clean, worst = (
        [percent_sign(100 * found[name][f"right_{how}"]) for how in ("once", "in_mean", "in_all")]
        for name in ("none", WORST_CASE)
    )
    times = int(found[WORST_CASE]["answers"])
    return [
        f"{system} draws random numbers. Asked {times} times about what the worst of all attacks "
        f"made, it is right in {worst[0]} of the answers ({clean[0]} without attack), in the mean "
        f"of them for {worst[1]} of the utterances ({clean[1]}), and every time for {worst[2]} "
        f"({clean[2]})."
    ]


def led(audit: AuditResult) -> pd.DataFrame:
    """Return the measures of attacks that lead to a chosen class; empty where none was tried."""
    table = audit.measures
    return table[table["success_rate"].notna()] if "success_rate" in table else table.iloc[:0]


def _led(audit: AuditResult, system: str) -> list[str]:
    rows = led(audit)
    rows = rows[rows["defence"] == system] if len(rows) else rows
    if rows.empty:
        return []
    rates = rows.set_index("towards")["success_rate"].astype(float)
    return [
        f"Led to a class of the attacker's choice, {system} gives it in "
        f"{percent_sign(100 * rates.min())} ({rates.idxmin()}) to "
        f"{percent_sign(100 * rates.max())} ({rates.idxmax()}) of the attempts."
    ]


def _on_sound(audit: AuditResult, system: str) -> list[str]:
    """Return what the strongest log-Mel attack on a system is worth once it is sound."""
    table = audit.realisability
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


def _same_speech(audit: AuditResult) -> list[str]:
    """Return what the defences do to the speech itself."""
    table = audit.speech
    if table is None:
        return []
    clean = table[table["attack"] == "none"].set_index("defence")
    if "log_mel_distance_db" in table:
        return list(_moved(audit, clean["log_mel_distance_db"].astype(float)))
    if not {"stoi", "pesq"} <= set(table):
        return [
            "Whether words stay as they are is not known: STOI, PESQ or DNSMOS were not measured "
            f"({INSTALL.format('quality')})."
        ]
    told = []
    for name in (each for each in audit.defences if each in clean.index):
        stoi, pesq = (clean[each].astype(float)[name] for each in ("stoi", "pesq"))
        if math.isnan(stoi) or math.isnan(pesq):
            continue
        understood = words_understood(stoi)
        words_told = next(words for least, words in WORDS if understood >= least)
        quality = next(word for least, word in QUALITY if pesq >= least)
        under = table[(table["defence"] == name) & (table["attack"] != "none")]["stoi"].dropna()
        attacked = f"; of attacked speech {_stoi(under.min())}" if len(under) else ""
        told.append(
            f"Of clean speech, {name} {words_told} ({_stoi(stoi)}, with which listeners understand "
            f"{percent_sign(100 * understood)} of words{attacked}), and the sound is {quality} "
            f"(PESQ{_NARROW}{number(pesq, digits=1)})."
        )
    return told


def _stoi(value: float) -> str:
    return f"STOI{_NARROW}{number(value, digits=2)}"


def _moved(audit: AuditResult, distance: pd.Series[float]) -> Iterator[str]:
    """Yield how far the defences move clean log-Mels."""
    another = float(distance.get(ANOTHER, math.nan))
    for name in (each for each in audit.defences if each in distance.index):
        moved = float(distance[name])
        far = (
            " It may be that it writes what it heard instead of the speech that went in."
            if moved >= AS_FAR * another
            else ""
        )
        beside = "" if math.isnan(another) else f"; another clip of the class is {_db(another)} off"
        yield f"{name} moves a cell of a clean log-Mel by {_db(moved)} on average{beside}.{far}"


def _db(value: float) -> str:
    return f"{number(value, digits=1)}{_NARROW}dB"


def _checks(audit: AuditResult) -> list[str]:
    if not audit.findings:
        return ["No sanity check was run, so nothing vouches for these numbers."]
    counts = Counter(finding.severity for finding in audit.findings)
    told = [
        f"{counts[s]} {s.replace('-', ' ')}{'s' * (counts[s] > 1 and s in _COUNTED)}"
        for s in SEVERITIES
        if counts[s]
    ]
    sentence = f"Sanity checks: {listed(told)}."
    if audit.errors:
        sentence += " Where a check found an error, the numbers above cannot be trusted."
    return [sentence]


def _demanded(audit: AuditResult) -> list[str]:
    if audit.fail_under is None:
        return []
    asked = f"{listed(audit.judged)} had {audit.wanted}"
    if audit.passes:
        return [f"Passed: {asked}."]
    low = [f"{name} {kept}" for name, kept in audit.below.items()]
    return [f"Failed: {asked}, but {listed(low + audit.untrusted)}."]


def summary(audit: AuditResult) -> list[str]:
    """Return what was found in plain sentences, what spoils the figures first."""
    checks = "a check" if audit.errors == 1 else f"{audit.errors} checks"
    doubt = f"Do not rely on these figures: {checks} of this audit found an error."
    return [*audit.black_box_only, *[doubt] * bool(audit.errors), _model(audit), *_defence(audit)]


def _model(audit: AuditResult) -> str:
    clean, left = audit.clean(UNDEFENDED), audit.worst(UNDEFENDED)
    if left is None:
        return "Nobody attacked this model, so nothing is known of its safety."
    if (clean.uar if math.isnan(clean.low) else clean.low) <= audit.chance:
        return "This model may be guessing even where nobody attacks it, so look at that first."
    lost, change = 1 - left.uar / clean.uar, _change(audit)
    wrong = f"{_of_hundred(lost)} right answers" if 100 * left.uar >= _LEAST else "every answer"
    for least, grade in FOOLED:
        if lost >= least:
            return f"{grade}: {change} turns {wrong} wrong."
    return (
        "None of the attacks that were tried fooled this model; an attack that nobody tried may "
        "do so."
    )


def _defence(audit: AuditResult) -> list[str]:
    """Return what the best defence is worth against everyone who attacked it."""
    kept = {name: audit.worst(name) for name in audit.defences}
    left = {name: standing for name, standing in kept.items() if standing is not None}
    bare = audit.worst(UNDEFENDED)
    if not left or bare is None:
        return []
    best = max(left, key=lambda name: left[name].uar)
    several = f"The best of its {len(left)} defences, {best},"
    what = several if len(left) > 1 else f"The defence {best}"
    known = audit.worst(best, KNOWING) is not None
    who = "an attacker who knows it" if known else "attackers who can only ask for answers"
    if 100 * (left[best].uar - bare.uar) < 1:
        return [f"{what} does not protect it from {who}."]
    clean = audit.clean(best).uar, audit.clean(UNDEFENDED).uar
    shares = [k / c if c else 0.0 for k, c in zip((left[best].uar, bare.uar), clean, strict=True)]
    return [
        f"{what} helps against {who}: it keeps {_of_hundred(shares[0])} right answers, the model "
        f"alone {_of_hundred(shares[1])}."
    ]


def _of_hundred(share: float) -> str:
    """Return a share as people say it: ``37 of 100``."""
    count = round(100 * share)
    return f"{count} of 100" if count or not share else "fewer than 1 of 100"


def _change(audit: AuditResult) -> str:
    """Return how loud the change is that fools, in words."""
    table = audit.measures
    # What was made into sound is another attack than the one whose harm is told.
    if audit.on_sound and "median_snr_db" in table:
        ratio = table[table["knowledge"].isin(KNOWING)]["median_snr_db"].astype(float).median()
        if math.isfinite(ratio):
            return next(words for least, words in LOUDNESS if ratio >= least)
    decibels = audit.decibels(audit.radius)
    if math.isfinite(decibels):
        return next(words for most, words in DECIBELS if decibels <= most)
    return "a small change of the input"


def terms(audit: AuditResult) -> tuple[str, ...]:
    """Return what the words of the verdict mean, a sentence or two each."""
    return words(
        "terms",
        chance=f"{100 * audit.chance:.1f}",
        classes=len(audit.found.classes),
        tried={c.knowledge for c in audit.attacked},
        size=size(audit),
    )


def definitions(audit: AuditResult) -> tuple[str, ...]:
    """Return what the other words and columns mean, one sentence or two each."""
    return words(
        "audit",
        apart=any(map(audit.apart, audit.attacked)),
        noise=any(c.attack == CONTROL for c in audit.attacked),
        no_interval=audit.no_interval,
        draws=f"{RESAMPLES} draws, seed {SEED}",
    )
