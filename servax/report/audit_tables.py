"""The tables of an audit: by what the attacker knows, by attack, the checks, and more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation.checks import SEVERITIES
from servax.evaluation.distortion import ANOTHER, MEASURES as MEASURES_OF_SOUND
from servax.perturbation import ratio_of
from servax.report.audit_result import ATTACKERS, SLACK, AuditResult
from servax.report.audit_sentences import led, size
from servax.report.tables import (
    MISSING,
    Cell,
    Field,
    Head,
    Row,
    Table,
    listed,
    listing,
    number,
    pivot,
    short,
    with_interval,
)

HEADINGS = {name: name.replace("_", " ") for name in ATTACKERS} | {"bpda": "BPDA"}
"""What an attacker is called in tables, by the name in records."""
GROUPS = {heading: (name,) for name, heading in HEADINGS.items()} | {"worst of all": ATTACKERS}
"""Whose attacks an utterance meets the worst of, by the heading of the column."""
MEASURES = [
    "gradients_per_utterance",
    "queries_per_utterance",
    "attacked",
    "moved",
    "median_distance",
    "median_snr_db",
    "lowest_snr_db",
    "seconds",
    "success_rate",
]
_ATTACK = ["system", "attack", "knowledge", "strength"]
_IN_SIGHT = 24
"""Of a longer table the page shows a part, and scrolls."""
_EVIDENCE_CHARACTERS, _LISTED = 700, 12
"""So much evidence, and so many entries of a list, are printed; `audit.json` has all."""
_DETECTORS = {"residual": "change of the input", "l1": "change of the probabilities"}
"""What a detector looks at, by the name of its score."""


def audit_tables(audit: AuditResult) -> tuple[Table, ...]:
    """Return the tables of an audit that it can fill, the main one first."""
    made = (
        main_table(audit),
        attack_table(audit),
        answers_table(audit),
        targeted_table(audit),
        checks_table(audit),
        realisability_table(audit),
        detection_table(audit),
        speech_table(audit),
    )
    return tuple(table for table in made if table.rows)


def main_table(audit: AuditResult) -> Table:
    """Return what each system keeps by what the attacker knows, a row per system.

    Its numbers have a row only where somebody tried.
    """
    groups = {"clean": audit.clean} | {
        heading: lambda name, who=who: audit.worst(name, who) for heading, who in GROUPS.items()
    }
    rows = [
        {
            "system": name,
            "column": heading,
            "uar_percent": 100 * standing.uar,
            "low_percent": 100 * standing.low,
            "high_percent": 100 * standing.high,
            "attacks": " ".join(standing.attacks),
        }
        for heading, group in groups.items()
        for name in audit.systems
        if (standing := group(name)) is not None
    ]
    frame, few = pd.DataFrame(rows), audit.no_interval

    def tried(heading: str) -> str:
        names = frame.loc[frame["column"] == heading, "attacks"]
        count = len({name for told in names for name in told.split()})
        return f"{count} attack{'s' * (count != 1)}" if count else ""

    def text(row: Row) -> str:
        return with_interval(row["uar_percent"], row["low_percent"], row["high_percent"])

    spread = "" if few else f", with 95 % intervals over the {audit.speakers} speakers"
    return pivot(
        frame,
        [Field(Head(h, tried(h)), text, h, "uar_percent") for h in groups],
        first="system",
        row="system",
        rows=audit.systems,
        title="UAR (%) by what the attacker knows",
        note="Each utterance meets the worst of all attacks of a column at "
        f"{size(audit)}{spread}; {audit.found.labels.size} utterances. A dash: nobody tried. "
        f"Bold: the best defence.{few and ' '}{few}",
        name="worst-case",
        numbers=frame,
        dense=True,
    )


def attack_rows(audit: AuditResult) -> pd.DataFrame:
    """Return a row for each system, attack, knowledge and strength, with all that is known.

    Columns: `system`, `attack`, `knowledge`, `strength`, `strength_db`, `uar`, `low`, `high`
    (shares), and those of the measures; ``nan`` where nothing was measured.
    """
    rows = []
    for system in audit.systems:
        for c in audit.conditions(system):
            standing = audit.standing(system, [c])
            decibels = np.nan if audit.apart(c) else audit.decibels(c.strength)
            if audit.by_ratio:
                decibels = ratio_of(c.strength)
            shares = (standing.uar, standing.low, standing.high)
            rows.append((system, c.attack, c.knowledge, c.strength, decibels, *shares))
    frame = pd.DataFrame(rows, columns=[*_ATTACK, "strength_db", "uar", "low", "high"])
    if audit.measures.empty:
        return frame.assign(**dict.fromkeys(MEASURES, np.nan))
    measured = audit.measures.rename(columns={"defence": "system"})
    measured = measured.reindex(columns=[*_ATTACK, *MEASURES])
    for table in (frame, measured):  # a strength stays one number, however it was computed
        table["key"] = [f"{float(strength):.6g}" for strength in table["strength"]]
    keys = [*_ATTACK[:-1], "key"]
    measured = measured.drop(columns="strength").drop_duplicates(keys)
    measured[MEASURES] = measured[MEASURES].astype(float)
    return frame.merge(measured, on=keys, how="left").drop(columns="key")


def _known(frame: pd.DataFrame | None) -> pd.DataFrame:
    return pd.DataFrame() if frame is None else frame


def _names(first: str = "defence") -> list[Field]:
    """Return the columns that name an attack: on what, which, by whom."""
    return [
        Field(Head("system"), lambda row: str(row[first])),
        Field(Head("attack"), lambda row: str(row["attack"])),
        Field(
            Head("knowledge"),
            lambda row: HEADINGS.get(str(row["knowledge"]), str(row["knowledge"])),
        ),
    ]


def _number(name: str, text: str, detail: str = "", *, times: float = 1, digits: int = 1) -> Field:
    """Return a column of numbers, scaled; a dash where one was not measured."""
    return Field(Head(text, detail), lambda row: number(_value(row, name, times), digits=digits))


def _value(row: Row, name: str, times: float = 1) -> float:
    value = row.get(name)
    return float("nan") if value is None or pd.isna(value) else times * float(value)


def attack_table(audit: AuditResult) -> Table:
    """Return every attack on every system at its audited strength."""
    every = attack_rows(audit)
    # The largest strength within the radius; an attack with a ball of its own has one only.
    inside = every[every["strength"] <= audit.radius * (1 + SLACK)]
    keys = _ATTACK[:-1]
    shown = pd.concat([inside.groupby(keys, sort=False).tail(1), every]).drop_duplicates(keys)
    return listing(
        shown.sort_index(),
        [
            *_names("system"),
            Field(Head("strength"), lambda row: short(row["strength"], 3)),
            _number("strength_db", "dB"),
            _number("uar", "UAR", "%", times=100),
            _number("median_snr_db", "SNR, median", "dB"),
            _number("lowest_snr_db", "SNR, lowest", "dB"),
            _number("gradients_per_utterance", "gradients", "per utterance"),
            _number("queries_per_utterance", "queries", "per utterance"),
            _number("seconds", "time", "s"),
        ],
        title="Every attack on every system",
        note="At the audited strength; the smaller ones of a sweep are in the picture and the "
        "files. Gradients and queries are means over the utterances that were attacked: one that "
        "is fooled leaves the attack.",
        name="attacks",
        numbers=every,
        columns_named=3,
        tall=len(shown) > _IN_SIGHT,
    )


def answers_table(audit: AuditResult) -> Table:
    """Return what random systems answer when they are asked again and again."""
    found = _known(audit.answers)
    times = int(found["answers"].iloc[0]) if len(found) else 0
    return listing(
        found,
        [
            *_names(),
            _number("right_once", "right once", "% of answers", times=100),
            _number("right_in_mean", f"right in the mean of {times}", "% of utterances", times=100),
            _number("right_in_all", f"right in all {times}", "% of utterances", times=100),
        ],
        title="Asked again and again: random systems",
        note="What each attack made of the utterances at the audited strength was put to the "
        f"system {times} times. An attacker who may try as often needs one wrong answer. The worst "
        "case is per utterance over all attacks; the least of so many shares is a low estimate.",
        name="answers",
        columns_named=3,
        tall=len(found) > _IN_SIGHT,
    )


def targeted_table(audit: AuditResult) -> Table:
    """Return how often each class was reached."""
    system, _, knowledge = _names()
    return listing(
        led(audit),
        [
            system,
            Field(Head("chosen class"), lambda row: str(row["towards"])),
            knowledge,
            _number("success_rate", "success rate", "%", times=100),
            _number("attacked", "attacked", "utterances", digits=0),
            _number("median_snr_db", "SNR, median", "dB"),
        ],
        title="Led to a chosen class",
        note="Attacked is what a system gets right and what is of another class. The success rate "
        "is the share of it that comes out as the chosen class.",
        name="targeted",
        columns_named=3,
    )


def realisability_table(audit: AuditResult) -> Table:
    """Return what attacked log-Mels are worth once they are sound."""

    def gap(row: Row) -> str:
        return number(_value(row, "uar_sound", 100) - _value(row, "uar_logmel", 100), digits=1)

    return listing(
        _known(audit.realisability),
        [
            *_names(),
            _number("uar_logmel", "on log-Mel", "UAR, %", times=100),
            _number("uar_sound", "on its sound", "UAR, %", times=100),
            Field(Head("gap", "points"), gap),
            _number("uar_clean_round_trip", "clean round trip", "UAR, %", times=100),
            _number("median_snr_db", "SNR, median", "dB"),
            _number("median_log_mel_error_db", "log-Mel error, median", "dB", digits=2),
        ],
        title="Realisability gap: from log-Mel to sound and back",
        note="The attacked log-Mel is turned into sound, written as 16-bit WAV, read again and "
        "scored again; the clean round trip is the same without attack. A large gap says that the "
        "attack on log-Mels overstates what sound can do.",
        name="realisability",
        columns_named=3,
    )


def speech_table(audit: AuditResult) -> Table:
    """Return what becomes of speech before the model hears it."""
    rows = _known(audit.speech)
    measures = [
        _number(name, each.title, each.unit, digits=1 if each.unit == "dB" else 2)
        for name, each in MEASURES_OF_SOUND.items()
        if name in rows
    ]
    if "log_mel_distance_db" in rows:
        measures.append(_number("log_mel_distance_db", "distance", "mean dB of a cell"))
    lower = [each.title for each in MEASURES_OF_SOUND.values() if each.better == "lower"]
    return listing(
        rows,
        [*_names(), *measures, _number("utterances", "utterances", digits=0)],
        title="Is it still the same speech?",
        note="Medians over utterances, each compared with the clean one that went in (DNSMOS alone "
        "compares with nothing). Higher is better, but for "
        f"{listed([*lower, 'distance'])}. {ANOTHER.capitalize()} of the same class by "
        "another speaker shows what a defence would get that writes its own answer into the sound; "
        "undefended, that attacks change the sound too. A dash: nothing changed, or it cannot be "
        "told.",
        name="speech",
        columns_named=3,
    )


def detection_table(audit: AuditResult) -> Table:
    """Return how well the defences notice attacks."""
    return listing(
        _known(audit.detection),
        [
            *_names(),
            Field(Head("score"), lambda row: _DETECTORS.get(row["score"], str(row["score"]))),
            _number("area", "ROC area", digits=3),
            _number("detected_at_5_percent", "detected", "% at 5 % false alarms", times=100),
            _number("utterances", "utterances", "attacked", digits=0),
        ],
        title="Detection: does the defence notice the attack?",
        note="A detector flags what the defence changes much: clean speech should pass it nearly "
        "as it was. Its score is the mean change of the input, or how far the probabilities of "
        "the bare model move (L1). The area is the chance that an attacked input scores above a "
        "clean one, .5 for a detector that guesses. No attacker here tries to fool the detector "
        "too, not even the adaptive one, so these figures are upper bounds.",
        name="detection",
        columns_named=4,
    )


def checks_table(audit: AuditResult) -> Table:
    """Return a row per finding, the worst first, each with its evidence."""
    ranked = sorted(audit.findings, key=lambda finding: SEVERITIES.index(finding.severity))

    def severity(row: Row) -> Cell:
        return Cell(row["severity"].replace("-", " "), mark=row["severity"])

    def evidence(row: Row) -> Cell:
        told = plain(row["evidence"]) if row["evidence"] else ""
        if len(told) > _EVIDENCE_CHARACTERS:
            told = told[:_EVIDENCE_CHARACTERS].rsplit(" ", 1)[0]
            told = f"{told} … (all of it is in audit.json)"
        return Cell(row["statement"], detail=told)

    return listing(
        pd.DataFrame(map(vars, ranked)),
        [
            Field(Head("check"), lambda row: row["check"].replace("-", " ")),
            Field(Head("severity"), severity),
            Field(Head("finding"), evidence),
            Field(Head("system"), lambda row: row["subject"]),
        ],
        title="Sanity checks",
        note="An error: the numbers cannot be trusted. A warning: they flatter, or may.",
        name="checks",
        numbers=None,
        prose=True,
        tall=len(ranked) > _IN_SIGHT,
    )


def plain(value: Any) -> str:
    """Return a JSON value as one line of text; long lists are cut, and say how long they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        sentences = any(isinstance(part, str) and " " in part for part in value.values())
        colon, between = (":", "; ") if sentences else ("", ", ")
        told = (f"{str(n).replace('_', ' ')}{colon} {_inner(part)}" for n, part in value.items())
        return between.join(told) or MISSING
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(part, Mapping) for part in value) else ", "
        joined = between.join(plain(part) for part in value[:_LISTED])
        return f"{joined}, … ({len(value)} in all)" if len(value) > _LISTED else joined or MISSING
    if value is None or pd.isna(value):
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _inner(value: Any) -> str:
    return f"({plain(value)})" if isinstance(value, Mapping | list | tuple) else plain(value)
