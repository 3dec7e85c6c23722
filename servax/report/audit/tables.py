"""The tables of an audit: by what the attacker knows, by attack, and on the way to sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation.statistics import no_interval
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import ATTACKERS, Scores, Standing
from servax.report.audit.sentences import size
from servax.report.cells import Cell, Head, TextTable, best_of
from servax.report.outcomes import Condition
from servax.report.wording import MISSING, number, percentage

__all__ = [
    "HEADINGS",
    "ROWS_IN_SIGHT",
    "attack_rows",
    "attack_table",
    "main_table",
    "realisability_table",
]

HEADINGS = {
    "oblivious": "oblivious",
    "transfer": "transfer",
    "black_box": "black box",
    "bpda": "BPDA",
    "adaptive": "adaptive",
}
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

ROWS_IN_SIGHT = 24
"""Of a longer table the page shows a part, and scrolls."""

_Columns = Mapping[str, Sequence[Standing | None]]
"""Heading → what each system keeps."""


def main_table(result: AuditResult, found: Scores) -> TextTable:
    """Return what each system keeps by what the attacker knows, a row per system."""
    columns: _Columns = {
        "clean": [found.clean(name) for name in found.systems],
        **{HEADINGS[k]: [found.worst(name, [k]) for name in found.systems] for k in ATTACKERS},
        "worst of all": [found.worst(name) for name in found.systems],
    }
    few = no_interval(found.speakers)
    spread = "" if few else f", with 95 % intervals over the {found.speakers} speakers"
    bold = {name: _bold(column) for name, column in columns.items()}
    return TextTable(
        title="UAR (%) by what the attacker knows",
        note=f"Each utterance meets the worst of all attacks of a column at {size(result)}{spread}"
        f"; {found.outcomes.labels.size} utterances. A dash: nobody tried. Bold: the best defence."
        + f" {few}"
        * bool(few),
        head=(
            Head("system"),
            *(Head(name, _tried(name, column)) for name, column in columns.items()),
        ),
        rows=tuple(
            (
                Cell(name),
                *(Cell(_interval(column[i]), bold[h][i]) for h, column in columns.items()),
            )
            for i, name in enumerate(found.systems)
        ),
        name="worst-case",
        numbers=_tidy(columns, found.systems),
        dense=True,
    )


def _tried(heading: str, column: Sequence[Standing | None]) -> str:
    if heading == "clean":
        return ""
    count = len({name for standing in column if standing for name in standing.attacks})
    return f"{count} attack{'s' * (count != 1)}" if count else ""


def _bold(column: Sequence[Standing | None]) -> list[bool]:
    values = [float("nan") if s is None else round(100 * s.uar, 1) for s in column]
    return best_of(values, [i > 0 for i in range(len(column))])


def _interval(standing: Standing | None) -> str:
    if standing is None:
        return MISSING
    text = percentage(100 * standing.uar)
    if np.isnan(standing.low):
        return text
    return f"{text} [{percentage(100 * standing.low)}, {percentage(100 * standing.high)}]"


def _tidy(columns: _Columns, systems: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "system": name,
                "column": heading,
                "uar_percent": 100 * standing.uar,
                "low_percent": 100 * standing.low,
                "high_percent": 100 * standing.high,
                "attacks": " ".join(standing.attacks),
            }
            for heading, column in columns.items()
            for name, standing in zip(systems, column, strict=True)
            if standing is not None
        ]
    )


def attack_rows(result: AuditResult, found: Scores) -> pd.DataFrame:
    """Return a row for each system, attack, knowledge and strength, with all that is known.

    Columns: `system`, `attack`, `knowledge`, `strength`, `strength_db`, `uar`, `low`, `high`
    (shares), and those of the measures; ``nan`` where nothing was measured.
    """
    rows = []
    for system in found.systems:
        for condition in found.conditions(system):
            standing = found.standing(system, [condition])
            rows.append(
                {
                    "system": system,
                    "attack": condition.attack,
                    "knowledge": condition.knowledge,
                    "strength": condition.strength,
                    "strength_db": result.decibels(condition.strength, condition.attack),
                    "uar": standing.uar,
                    "low": standing.low,
                    "high": standing.high,
                    **_measured(result.measures, system, condition),
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
    row = rows.iloc[0]
    return {name: float(row[name]) if name in row else float("nan") for name in MEASURES}


def attack_table(result: AuditResult, found: Scores) -> TextTable | None:
    """Return every attack on every system at its audited strength; None where nobody attacked."""
    every = attack_rows(result, found)
    if every.empty:
        return None
    # The largest strength within the radius; an attack with a ball of its own has one only.
    inside = every[every["strength"] <= result.radius * (1 + 1e-6)]
    keys = ["system", "attack", "knowledge"]
    shown = pd.concat([inside.groupby(keys, sort=False).tail(1), every]).drop_duplicates(keys)
    heads = (
        Head("system"),
        Head("attack"),
        Head("knowledge"),
        Head("strength"),
        Head("dB"),
        Head("UAR", "%"),
        Head("SNR, median", "dB"),
        Head("SNR, lowest", "dB"),
        Head("gradients", "per utterance"),
        Head("queries", "per utterance"),
        Head("time", "s"),
    )
    return TextTable(
        title="Every attack on every system",
        note="At the audited strength; the smaller ones of a sweep are in the picture and the "
        "files. Gradients and queries are means over the utterances that were attacked: one that "
        "is fooled leaves the attack.",
        head=heads,
        rows=tuple(_row(row) for row in shown.sort_index().to_dict("records")),
        name="attacks",
        numbers=every,
        columns_named=3,
        tall=len(shown) > ROWS_IN_SIGHT,
    )


def _row(row: dict[Any, Any]) -> tuple[Cell, ...]:
    texts = (
        row["system"],
        row["attack"],
        HEADINGS[row["knowledge"]],
        f"{row['strength']:.3g}".replace("0.", ".", 1),
        number(row["strength_db"], digits=1),
        percentage(100 * row["uar"]),
        number(row["median_snr_db"], digits=1),
        number(row["lowest_snr_db"], digits=1),
        number(row["gradients_per_utterance"], digits=1),
        number(row["queries_per_utterance"], digits=1),
        number(row["seconds"], digits=1),
    )
    return tuple(Cell(text) for text in texts)


def realisability_table(result: AuditResult) -> TextTable | None:
    """Return what attacked log-Mels are worth once they are sound; None where none became it."""
    table = result.realisability
    if table is None or table.empty:
        return None
    heads = (
        Head("system"),
        Head("attack"),
        Head("knowledge"),
        Head("on log-Mel", "UAR, %"),
        Head("on its sound", "UAR, %"),
        Head("gap", "points"),
        Head("clean round trip", "UAR, %"),
        Head("SNR, median", "dB"),
        Head("log-Mel error, median", "dB"),
    )
    return TextTable(
        title="Realisability gap: from log-Mel to sound and back",
        note="The attacked log-Mel is turned into sound, written as 16-bit WAV, read again and "
        "scored again; the clean round trip is the same without attack. A large gap says that the "
        "attack on log-Mels overstates what sound can do.",
        head=heads,
        rows=tuple(_realised(row) for row in table.astype(object).to_dict("records")),
        name="realisability",
        numbers=table,
        columns_named=3,
    )


def _realised(row: dict[Any, Any]) -> tuple[Cell, ...]:
    at = partial(value_at, row)
    gap = at("uar_sound", 100) - at("uar_logmel", 100)
    texts = (
        str(row["defence"]),
        str(row["attack"]),
        HEADINGS.get(str(row["knowledge"]), str(row["knowledge"])),
        percentage(at("uar_logmel", 100)),
        percentage(at("uar_sound", 100)),
        number(gap, digits=1),
        percentage(at("uar_clean_round_trip", 100)),
        number(at("median_snr_db"), digits=1),
        number(at("median_log_mel_error_db"), digits=2),
    )
    return tuple(Cell(text) for text in texts)


def value_at(row: Mapping[Any, Any], name: str, times: float = 1.0) -> float:
    """Return a number of a row, scaled; ``nan`` where it was not measured."""
    value = row.get(name)
    return float("nan") if value is None or pd.isna(value) else times * float(value)
