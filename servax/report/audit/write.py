"""Write the report of an audit: JSON and JUnit XML for programs, pages for people."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from servax.errors import PathError
from servax.evaluation.checks import Finding
from servax.evaluation.records import Records
from servax.files import json_text, write_whole
from servax.report.audit.result import KINDS, AuditResult, Clip
from servax.report.audit.scores import (
    ATTACKERS,
    KNOWING,
    UNKNOWING,
    Scores,
    Standing,
    below,
    judged,
    passes,
    scores,
    untrusted,
    wanted,
)
from servax.report.audit.sentences import definitions, summary, terms, verdict
from servax.report.audit.tables import attack_rows, audit_tables, plain
from servax.report.figures import Lines, size_curves
from servax.report.predictions import UNDEFENDED
from servax.report.rendering import Content, Picture, Player, ReportPaths, wav, write_content
from servax.report.run_files import home_of, read_run
from servax.report.style import png

__all__ = [
    "AuditPaths",
    "content",
    "curve",
    "document",
    "junit",
    "picture",
    "read_results",
    "verdict_ok",
    "write_audit",
]

SCHEMA_VERSION = 1
"""Rises when a key changes its meaning or goes; new keys leave it."""
FIRST = ("worst-case", "figures/uar-over-epsilon", "checks")
"""What a reader came for: who keeps what, the curves, and whether the numbers can be trusted."""
_JSON, _JUNIT = "audit.json", "audit.junit.xml"
_FACTS = ("command", "machine", "commit", "seeds")
"""What stands below the title, as in every report."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


@dataclass(frozen=True)
class AuditPaths(ReportPaths):
    """Where the parts of an audit's report lie."""

    json: Path = Path(_JSON)
    """``audit.json``."""
    junit: Path = Path(_JUNIT)
    """``audit.junit.xml``."""


def write_audit(result: AuditResult, folder: str | Path) -> AuditPaths:
    """Write the report of an audit into `folder`; each file appears whole or not at all.

    Everything is computed before the first file is written.

    Args:
        result: What the audit found.
        folder: Made when it does not exist; files of an earlier report are replaced.

    Raises:
        ServaxError: The records cannot be compared, oblivious results stand alone (see
            `servax.report.audit.scores`), or a file cannot be written.
    """
    found, folder = scores(result), Path(folder)
    pages = content(found)
    files = {_JSON: f"{json_text(document(found), indent=1)}\n".encode(), _JUNIT: junit(found)}
    written = write_content(pages, folder)
    for name, data in files.items():
        write_whole(folder / name, data)
    return AuditPaths(**vars(written), json=folder / _JSON, junit=folder / _JUNIT)


def verdict_ok(result: AuditResult) -> bool:
    """Return whether an audit passes, for ``--fail-under``.

    Raises:
        ServaxError: See `servax.report.audit.scores`.
    """
    return passes(scores(result))


def read_results(path: str | Path) -> Records | AuditResult:
    """Return the records of a run, or an audit from its records and ``report/audit.json``.

    Args:
        path: Folder of a run or audit, or one Parquet file of its records.

    Returns:
        Records of a run; of an audit all that it found, without the sounds.

    Raises:
        ServaxError: There are no records, they do not belong together, or the ``audit.json`` of
            an audit is not there or not what `write_audit` writes.
    """
    records = read_run(path)
    if "audit" not in records.provenance:
        return records
    source = home_of(path) / "report" / _JSON
    try:
        told = json.loads(source.read_text(encoding="utf-8"))
        frames = {
            name: None if told.get(name) is None else _frame(told[name])
            for name in ("measures", "realisability", "detection")
        }
        measures = frames.pop("measures")
        return AuditResult(
            records=records,
            findings=tuple(Finding(**finding) for finding in told["findings"]),
            measures=pd.DataFrame() if measures is None else measures,
            clips=(),
            card=told["card"],
            radius=told["radius"],
            fail_under=told["fail_under_percent"],
            judged_by=told.get("judged_by") or "uar",
            **frames,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PathError(
            source,
            f"cannot be read as the {_JSON} of an audit ({type(error).__name__}); expected the one "
            "that `servax audit` has written beside these records",
        ) from error


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of JSON, in which null is what was not measured."""
    return pd.DataFrame(rows).infer_objects().replace({None: np.nan})


def title(found: Scores) -> str:
    """Return the heading of the whole."""
    return f"servax audit: {found.found.target} on {found.found.corpus}"


def content(found: Scores) -> Content:
    """Return all that the pages say, in their order."""
    card, curves = found.result.card, picture(found)
    rows: list[tuple[str, str]] = []
    for name, value in card.items():
        words = name.replace("_", " ")
        # Entries of a group stand one by one: ``attacks · pgd``.
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            rows += [(f"{words} · {inner}", plain(part)) for inner, part in value.items()]
        else:
            rows.append((words, plain(value)))
    return Content(
        title=title(found),
        verdict=tuple(verdict(found)),
        header=tuple((name, plain(card[name])) for name in _FACTS if name in card),
        tables=audit_tables(found),
        appendix=(),
        pictures=(curves,) if curves else (),
        definitions=tuple(definitions(found)),
        first=FIRST,
        card=tuple(rows),
        players=tuple(_players(found.result.clips)),
        opening=tuple(summary(found)),
        terms=tuple(terms(found)),
    )


def _players(clips: Sequence[Clip]) -> list[Player]:
    """Return the clips of each recording together: by system, clean, attacked, purified."""
    recordings, systems = (
        list(dict.fromkeys(getattr(clip, name) for clip in clips))
        for name in ("utterance", "system")
    )

    def place(clip: Clip) -> tuple[int, int, int]:
        here = recordings.index(clip.utterance), systems.index(clip.system)
        return *here, KINDS.index(clip.kind)

    return [
        Player(
            f"{clip.utterance} (true class {clip.label})",
            clip.kind,
            clip.system,
            clip.prediction,
            clip.prediction == clip.label,
            wav(clip.waveform, clip.sample_rate),
        )
        for clip in sorted(clips, key=place)
    ]


def curve(found: Scores, system: str, knowledge: Sequence[str]) -> list[tuple[float, float]]:
    """Return (ε, UAR in percent) of a system, clean input first, up to the audited radius.

    At each ε stands the worst case of all attacks of these attackers that stay within it. Empty
    where none of them tried.
    """
    strengths = sorted({c.strength for c in found.within(system, knowledge)})
    points = [(0.0, 100 * found.clean(system).uar)]
    for strength in strengths:
        inside = found.within(system, knowledge, radius=strength)
        points.append((strength, 100 * found.standing(system, inside).uar))
    return points if strengths else []


def _panels(found: Scores) -> dict[str, Lines]:
    """Return title → system and curve; a panel is left out where no defence was tried.

    Nothing hides the undefended model, so all panels show its white-box attacks.
    """
    if not found.defences:
        line = curve(found, UNDEFENDED, (*UNKNOWING, *KNOWING))
        return {"": {UNDEFENDED: line}} if line else {}
    panels: dict[str, Lines] = {}
    for words, knowledge in (("does not know", UNKNOWING), ("knows", KNOWING)):
        lines = {UNDEFENDED: curve(found, UNDEFENDED, (*UNKNOWING, *KNOWING))}
        lines |= {name: curve(found, name, knowledge) for name in found.defences}
        lines = {name: points for name, points in lines.items() if points}
        if set(lines) - {UNDEFENDED}:
            panels[f"an attacker who {words} the defence"] = lines
    return panels


def picture(found: Scores) -> Picture | None:
    """Return UAR against ε, by what the attacker knows; None where nobody attacked."""
    result, panels = found.result, _panels(found)
    if not panels:
        return None
    decibels = result.decibels(result.radius)
    unit = f", {result.radius:g} is {decibels:.1f} dB" if decibels >= 0 else ""
    sides = " Left, the attacker does not know the defence; right, the attacker does."
    return Picture(
        "uar-over-epsilon",
        "UAR against the size of the attack",
        "At each ε stands the worst case over all attacks that stay within it, per utterance."
        + sides * (len(panels) > 1)
        + " Nothing hides the undefended model, so its line is the white-box one throughout."
        " The dotted line is chance.",
        png(size_curves(panels, among=found.systems, classes=len(found.found.classes), unit=unit)),
    )


def document(found: Scores) -> dict[str, Any]:
    """Return everything that a program needs; what was not measured is null.

    Keys: `schema_version`, `title`, `summary` (sentences for everyone), `verdict` (with exact
    figures), `passed` (null where nothing was asked), `fail_under_percent`, `judged_by`, `radius`,
    `radius_db`, `chance`, `classes`, `corpus`, `target`, `utterances`, `speakers`, `no_interval`
    (why `low` and `high` are null, where they are), `systems`, `findings`, `measures`,
    `realisability`, `detection`, `clips` (without their sound), `card`.
    A system has `name`, `clean`, `worst_case` (over all attacks), `by_knowledge` (knowledge →
    worst case) and `attacks` (a row per attack, knowledge and strength). UARs are shares.
    """
    result, rows = found.result, attack_rows(found)
    asked = result.fail_under is not None
    told = {
        "schema_version": SCHEMA_VERSION,
        "title": title(found),
        "summary": _spaced(summary(found)),
        "verdict": _spaced(verdict(found)),
        "passed": passes(found) if asked else None,
        "fail_under_percent": result.fail_under,
        "judged_by": result.judged_by if asked else None,
        "radius": result.radius,
        "radius_db": result.decibels(result.radius),
        "chance": found.chance,
        "classes": found.found.classes,
        "corpus": found.found.corpus,
        "target": found.found.target,
        "utterances": found.found.labels.size,
        "speakers": found.speakers,
        "no_interval": found.no_interval or None,
        "systems": [_system(found, name, rows) for name in found.systems],
        "findings": [finding.to_json() for finding in result.findings],
        "measures": result.measures,
        "realisability": result.realisability,
        "detection": result.detection,
        "clips": [_clip(clip) for clip in result.clips],
        "card": result.card,
    }
    cleaned: dict[str, Any] = _json(told)
    return cleaned


def _spaced(told: Sequence[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in told]


def _system(found: Scores, name: str, rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "name": name,
        "clean": found.clean(name),
        "worst_case": found.worst(name),
        "by_knowledge": {
            knowledge: found.worst(name, [knowledge])
            for knowledge in ATTACKERS
            if found.conditions(name, [knowledge])
        },
        "attacks": rows[rows["system"] == name].drop(columns="system"),
    }


def _clip(clip: Clip) -> dict[str, Any]:
    told = {name: value for name, value in vars(clip).items() if name != "waveform"}
    return told | {"seconds": clip.waveform.size / clip.sample_rate}


def _json(value: Any) -> Any:
    """Return a value as JSON holds it: plain types, and null for what is no number."""
    if isinstance(value, pd.DataFrame):
        return _json(value.to_dict("records"))
    if isinstance(value, Standing):
        return _json(vars(value))
    if isinstance(value, Mapping):
        return {str(name): _json(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return _json(value.tolist())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else plain(str(value))


def junit(found: Scores) -> bytes:
    """Return an audit as JUnit XML, which CI servers show: the findings and what is asked.

    An error of a check is a failure, what was not measured is skipped, and a warning or note passes
    with its sentence as output. Each judged system is a case of class ``fail-under``; it is a
    failure too where the figures cannot be trusted. Nothing depends on the clock.
    """
    result, suite = found.result, ET.Element("testsuite", name=_text(title(found)))
    named: Counter[tuple[str, str]] = Counter()
    for finding in result.findings:
        named[finding.subject, finding.check] += 1
        number = named[finding.subject, finding.check]
        name = finding.check if number == 1 else f"{finding.check} {number}"
        _told(_case(suite, finding.subject, name), finding)
    if result.fail_under is not None:
        low, doubts = below(found), untrusted(result)
        for system in judged(found):
            reasons = [low[each] for each in (system,) if each in low] + doubts
            case = _case(suite, "fail-under", f"{system} has {wanted(result)}")
            if reasons:
                ET.SubElement(case, "failure", message=_text("; ".join(reasons)))
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    counted = {name: str(len(suite.findall(path))) for name, path in counts.items()}
    for name in ("tests", "failures", "errors", "skipped"):
        suite.set(name, counted.get(name, "0"))
    ET.indent(suite)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ET.Element, of: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=_text(of), name=_text(name))


def _told(case: ET.Element, finding: Finding) -> None:
    """Say in a test case what a finding says."""
    said = _text(finding.statement)
    if finding.severity == "error":
        ET.SubElement(case, "failure", message=said).text = _text(plain(finding.evidence))
    elif finding.severity == "not-measured":
        ET.SubElement(case, "skipped", message=said)
    else:
        ET.SubElement(case, "system-out").text = f"{finding.severity}: {said}"


def _text(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text).replace("\N{NO-BREAK SPACE}", " ")
