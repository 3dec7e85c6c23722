"""An audit as one JSON object, for programs; what was not measured is null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation.statistics import no_interval
from servax.report.audit.page import title
from servax.report.audit.plain import plain
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import ATTACKERS, Scores, Standing
from servax.report.audit.sentences import verdict
from servax.report.audit.summary import summary
from servax.report.audit.tables import attack_rows
from servax.report.audit.threshold import passes

__all__ = ["SCHEMA_VERSION", "document"]

SCHEMA_VERSION = 1
"""Rises when a key changes its meaning or goes; new keys leave it."""


def document(result: AuditResult, found: Scores) -> dict[str, Any]:
    """Return everything that a program needs.

    Keys: `schema_version`, `title`, `summary` (sentences for everyone), `verdict` (with exact
    figures), `passed` (null where nothing was asked), `fail_under_percent`, `judged_by`, `radius`,
    `radius_db`, `chance`, `classes`, `corpus`, `target`, `utterances`, `speakers`, `no_interval`
    (why `low` and `high` are null, where they are), `systems`, `findings`, `measures`,
    `realisability`, `detection`, `clips` (without their sound), `card`.
    A system has `name`, `clean`, `worst_case` (over all attacks), `by_knowledge` (knowledge →
    worst case) and `attacks` (a row per attack, knowledge and strength). UARs are shares.
    """
    outcomes = found.outcomes
    rows = attack_rows(result, found)
    told = {
        "schema_version": SCHEMA_VERSION,
        "title": title(found),
        "summary": _sentences(summary(result, found)),
        "verdict": _sentences(verdict(result, found)),
        "passed": None if result.fail_under is None else passes(result, found),
        "fail_under_percent": result.fail_under,
        "judged_by": None if result.fail_under is None else result.judged_by,
        "radius": result.radius,
        "radius_db": result.decibels(result.radius),
        "chance": found.chance,
        "classes": list(outcomes.classes),
        "corpus": outcomes.corpus,
        "target": outcomes.target,
        "utterances": int(outcomes.labels.size),
        "speakers": found.speakers,
        "no_interval": no_interval(found.speakers) or None,
        "systems": [_system(found, name, rows) for name in found.systems],
        "findings": [finding.to_json() for finding in result.findings],
        "measures": result.measures.to_dict("records"),
        "realisability": _rows(result.realisability),
        "detection": _rows(result.detection),
        "clips": [_clip(clip) for clip in result.clips],
        "card": result.card,
    }
    cleaned: dict[str, Any] = _json(told)
    return cleaned


def _sentences(told: Sequence[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in told]


def _system(found: Scores, name: str, rows: pd.DataFrame) -> dict[str, Any]:
    own = rows[rows["system"] == name].drop(columns="system")
    return {
        "name": name,
        "clean": _standing(found.clean(name)),
        "worst_case": _standing(found.worst(name)),
        "by_knowledge": {
            knowledge: _standing(found.worst(name, [knowledge]))
            for knowledge in ATTACKERS
            if found.conditions(name, [knowledge])
        },
        "attacks": own.to_dict("records"),
    }


def _standing(standing: Standing | None) -> dict[str, Any] | None:
    if standing is None:
        return None
    return {
        "uar": standing.uar,
        "low": standing.low,
        "high": standing.high,
        "attacks": list(standing.attacks),
    }


def _rows(table: pd.DataFrame | None) -> list[dict[Any, Any]] | None:
    return None if table is None else table.to_dict("records")


def _clip(clip: Any) -> dict[str, Any]:
    names = ("title", "utterance", "label", "system", "prediction", "kind", "sample_rate")
    told = {name: getattr(clip, name) for name in names}
    return told | {"seconds": clip.waveform.size / clip.sample_rate}


def _json(value: Any) -> Any:
    """Return a value as JSON holds it: plain types, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(name): _json(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(part) for part in value]
    if isinstance(value, np.ndarray):
        return _json(value.tolist())
    if isinstance(value, np.generic):
        return _json(value.item())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else plain(str(value))
