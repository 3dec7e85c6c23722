"""The tables of an audit: by what the attacker knows, by attack, the checks, and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation.checks import SEVERITIES, Finding
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import ATTACKERS, Scores, Standing
from servax.report.audit.sentences import led, size
from servax.report.predictions import Condition
from servax.report.tables import (
    MISSING,
    Cell,
    Field,
    Head,
    Row,
    Table,
    listing,
    number,
    pivot,
    short,
    with_interval,
)

__all__ = [
    "HEADINGS",
    "attack_rows",
    "attack_table",
    "audit_tables",
    "checks_table",
    "detection_table",
    "main_table",
    "plain",
    "realisability_table",
    "standings",
    "targeted_table",
]

HEADINGS = {name: name.replace("_", " ") for name in ATTACKERS} | {"bpda": "BPDA"}
"""What an attacker is called in tables, by the name in records."""
MEASURES = (
    "gradients_per_utterance",
    "queries_per_utterance",
    "attacked",
    "moved",
    "median_distance",
    "median_snr_db",
    "lowest_snr_db",
    "seconds",
    "success_rate",
)
_IN_SIGHT = 24
"""Of a longer table the page shows a part, and scrolls."""
_EVIDENCE_CHARACTERS, _LISTED = 700, 12
"""So much evidence, and so many entries of a list, are printed; `audit.json` has all."""
_DETECTORS = {"residual": "change of the input", "l1": "change of the probabilities"}
"""What a detector looks at, by the name of its score."""


def audit_tables(found: Scores) -> tuple[Table, ...]:
    """Return the tables of an audit that it can fill, the main one first."""
    result = found.result
    made = (
        main_table(found),
        attack_table(found),
        targeted_table(result),
        checks_table(result.findings),
        realisability_table(result),
        detection_table(result),
    )
    return tuple(table for table in made if table)


def standings(found: Scores) -> pd.DataFrame:
    """Return what each system keeps by what the attacker knows (tidy).

    Columns ``system``, ``column``, ``uar_percent``, ``low_percent``, ``high_percent`` and
    ``attacks``; a row only where somebody tried.
    """
    groups: dict[str, Callable[[str], Standing | None]] = {
        "clean": found.clean,
        **{HEADINGS[k]: partial(found.worst, knowledge=[k]) for k in ATTACKERS},
        "worst of all": found.worst,
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
        for name in found.systems
        if (standing := group(name)) is not None
    ]
    return pd.DataFrame(rows)


def main_table(found: Scores) -> Table:
    """Return what each system keeps by what the attacker knows, a row per system."""
    frame, few = standings(found), found.no_interval

    def tried(heading: str) -> str:
        names = frame.loc[frame["column"] == heading, "attacks"]
        count = len({name for told in names for name in told.split()})
        return f"{count} attack{'s' * (count != 1)}" if count else ""

    def text(row: Row) -> str:
        return with_interval(row["uar_percent"], row["low_percent"], row["high_percent"])

    headings = ("clean", *HEADINGS.values(), "worst of all")
    fields = [Field(Head(h, tried(h)), text, h, "uar_percent") for h in headings]
    spread = "" if few else f", with 95 % intervals over the {found.speakers} speakers"
    return pivot(
        frame,
        fields,
        first="system",
        row="system",
        rows=found.systems,
        title="UAR (%) by what the attacker knows",
        note="Each utterance meets the worst of all attacks of a column at "
        f"{size(found.result)}{spread}; {found.found.labels.size} utterances. A dash: nobody "
        f"tried. Bold: the best defence.{few and ' '}{few}",
        name="worst-case",
        numbers=frame,
        dense=True,
    )


def attack_rows(found: Scores) -> pd.DataFrame:
    """Return a row for each system, attack, knowledge and strength, with all that is known.

    Columns: `system`, `attack`, `knowledge`, `strength`, `strength_db`, `uar`, `low`, `high`
    (shares), and those of the measures; ``nan`` where nothing was measured.
    """
    result, rows = found.result, []
    for system in found.systems:
        for c in found.conditions(system):
            standing = found.standing(system, [c])
            decibels = float("nan") if found.apart(c) else result.decibels(c.strength)
            rows.append(
                {
                    "system": system,
                    "attack": c.attack,
                    "knowledge": c.knowledge,
                    "strength": c.strength,
                    "strength_db": decibels,
                    "uar": standing.uar,
                    "low": standing.low,
                    "high": standing.high,
                    **_measured(result.measures, system, c),
                }
            )
    columns = ["system", "attack", "knowledge", "strength", "strength_db", "uar", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, *MEASURES])


def _measured(measures: pd.DataFrame, system: str, condition: Condition) -> dict[str, float]:
    nothing = dict.fromkeys(MEASURES, float("nan"))
    if measures.empty:
        return nothing
    rows = measures[
        (measures["defence"] == system)
        & (measures["attack"] == condition.attack)
        & (measures["knowledge"] == condition.knowledge)
        & np.isclose(measures["strength"].astype(float), condition.strength, rtol=1e-6, atol=0)
    ]
    if rows.empty:
        return nothing
    return {name: float(rows.iloc[0].get(name, np.nan)) for name in MEASURES}


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


def attack_table(found: Scores) -> Table | None:
    """Return every attack on every system at its audited strength; None where nobody attacked."""
    every = attack_rows(found)
    if every.empty:
        return None
    # The largest strength within the radius; an attack with a ball of its own has one only.
    inside = every[every["strength"] <= found.result.radius * (1 + 1e-6)]
    keys = ["system", "attack", "knowledge"]
    shown = pd.concat([inside.groupby(keys, sort=False).tail(1), every]).drop_duplicates(keys)
    fields = [
        *_names("system"),
        Field(Head("strength"), lambda row: short(row["strength"], 3)),
        _number("strength_db", "dB"),
        _number("uar", "UAR", "%", times=100),
        _number("median_snr_db", "SNR, median", "dB"),
        _number("lowest_snr_db", "SNR, lowest", "dB"),
        _number("gradients_per_utterance", "gradients", "per utterance"),
        _number("queries_per_utterance", "queries", "per utterance"),
        _number("seconds", "time", "s"),
    ]
    return listing(
        shown.sort_index(),
        fields,
        title="Every attack on every system",
        note="At the audited strength; the smaller ones of a sweep are in the picture and the "
        "files. Gradients and queries are means over the utterances that were attacked: one that "
        "is fooled leaves the attack.",
        name="attacks",
        numbers=every,
        columns_named=3,
        tall=len(shown) > _IN_SIGHT,
    )


def targeted_table(result: AuditResult) -> Table | None:
    """Return how often each class was reached; None where nobody tried to."""
    rows = led(result)
    if rows.empty:
        return None
    system, _, knowledge = _names()
    fields = [
        system,
        Field(Head("chosen class"), lambda row: str(row["towards"])),
        knowledge,
        _number("success_rate", "success rate", "%", times=100),
        _number("attacked", "attacked", "utterances", digits=0),
        _number("median_snr_db", "SNR, median", "dB"),
    ]
    return listing(
        rows,
        fields,
        title="Led to a chosen class",
        note="Attacked is what a system gets right and what is of another class. The success rate "
        "is the share of it that comes out as the chosen class.",
        name="targeted",
        columns_named=3,
    )


def realisability_table(result: AuditResult) -> Table | None:
    """Return what attacked log-Mels are worth once they are sound; None where none became it."""
    table = result.realisability
    if table is None or table.empty:
        return None

    def gap(row: Row) -> str:
        return number(_value(row, "uar_sound", 100) - _value(row, "uar_logmel", 100), digits=1)

    fields = [
        *_names(),
        _number("uar_logmel", "on log-Mel", "UAR, %", times=100),
        _number("uar_sound", "on its sound", "UAR, %", times=100),
        Field(Head("gap", "points"), gap),
        _number("uar_clean_round_trip", "clean round trip", "UAR, %", times=100),
        _number("median_snr_db", "SNR, median", "dB"),
        _number("median_log_mel_error_db", "log-Mel error, median", "dB", digits=2),
    ]
    return listing(
        table,
        fields,
        title="Realisability gap: from log-Mel to sound and back",
        note="The attacked log-Mel is turned into sound, written as 16-bit WAV, read again and "
        "scored again; the clean round trip is the same without attack. A large gap says that the "
        "attack on log-Mels overstates what sound can do.",
        name="realisability",
        columns_named=3,
    )


def detection_table(result: AuditResult) -> Table | None:
    """Return how well the defences notice attacks; None where none makes a detector."""
    table = result.detection
    if table is None or table.empty:
        return None
    fields = [
        *_names(),
        Field(Head("score"), lambda row: _DETECTORS.get(row["score"], str(row["score"]))),
        _number("area", "ROC area", digits=3),
        _number("detected_at_5_percent", "detected", "% at 5 % false alarms", times=100),
        _number("utterances", "utterances", "attacked", digits=0),
    ]
    return listing(
        table,
        fields,
        title="Detection: does the defence notice the attack?",
        note="A detector flags what the defence changes much: clean speech should pass it nearly "
        "as it was. Its score is the mean change of the input, or how far the probabilities of "
        "the bare model move (L1). The area is the chance that an attacked input scores above a "
        "clean one, .5 for a detector that guesses. No attacker here tries to fool the detector "
        "too, not even the adaptive one, so these figures are upper bounds.",
        name="detection",
        columns_named=4,
    )


def checks_table(findings: Sequence[Finding]) -> Table | None:
    """Return a row per finding, the worst first, each with its evidence; None without checks."""
    if not findings:
        return None
    ranked = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return Table(
        "Sanity checks",
        "An error: the numbers cannot be trusted. A warning: they flatter, or may.",
        tuple(map(Head, ("check", "severity", "finding", "system"))),
        tuple(
            (
                Cell(finding.check.replace("-", " ")),
                Cell(finding.severity.replace("-", " "), mark=finding.severity),
                Cell(finding.statement, detail=_evidence(finding)),
                Cell(finding.subject),
            )
            for finding in ranked
        ),
        name="checks",
        prose=True,
        tall=len(findings) > _IN_SIGHT,
    )


def _evidence(finding: Finding) -> str:
    told = plain(finding.evidence) if finding.evidence else ""
    if len(told) <= _EVIDENCE_CHARACTERS:
        return told
    return f"{told[:_EVIDENCE_CHARACTERS].rsplit(' ', 1)[0]} … (all of it is in audit.json)"


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
