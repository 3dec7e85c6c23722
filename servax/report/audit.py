"""The report of an audit: JSON and JUnit XML for programs, pages for people."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from servax.errors import PathError
from servax.evaluation.checks import Finding
from servax.evaluation.records import KNOWING, UNDEFENDED, Records
from servax.files import json_text
from servax.perturbation import ratio_of
from servax.report.audit_result import (
    ATTACKERS,
    MEASURES,
    UNKNOWING,
    AuditResult,
    Measure,
    demand_of,
)
from servax.report.audit_sentences import definitions, summary, terms, verdict
from servax.report.audit_tables import attack_rows, audit_tables, main_table, plain
from servax.report.figures import Lines, size_curves
from servax.report.predictions import Standing
from servax.report.regression import ANSWERS, RegressionResult
from servax.report.rendering import (
    KINDS,
    Clip,
    Picture,
    Prose,
    Report,
    ReportPaths,
    Section,
    Sounds,
    write,
)
from servax.report.run_files import home_of, read_run
from servax.report.style import png

__all__ = [
    "MEASURES",
    "AuditResult",
    "Clip",
    "Measure",
    "demand_of",
    "document",
    "main_table",
    "read_results",
    "summary",
    "verdict",
    "write_audit",
]

SCHEMA_VERSION = 1
"""Rises when a key changes its meaning or goes; new keys leave it."""
FIRST = ("tables/worst-case", "figures/uar-over-epsilon", "tables/checks", "sounds")
"""What a reader came for: who keeps what, the curves, whether the numbers can be trusted, and how
it sounds."""
JSON, JUNIT = "audit.json", "audit.junit.xml"
_FACTS = ("command", "machine", "commit", "seeds")
"""What stands below the title, as in every report."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def write_audit(audit: AuditResult, folder: str | Path) -> ReportPaths:
    """Write the report of an audit into `folder`; each file appears whole or not at all.

    Everything is computed before the first file is written.

    Args:
        audit: What the audit found.
        folder: Made when it does not exist; files of an earlier report are replaced. Beside the
            pages it holds ``audit.json`` and ``audit.junit.xml``.

    Raises:
        ServaxError: The records cannot be compared, oblivious results stand alone (see
            `AuditResult.found`), or a file cannot be written.
    """
    return write(report(audit), Path(folder))


def read_results(path: str | Path) -> Records | AuditResult | RegressionResult:
    """Return the records of a run, or an audit from its records and ``report/audit.json``.

    Args:
        path: Folder of a run or audit, or one Parquet file of its records.

    Returns:
        Records of a run; of an audit all that it found, without the sounds.

    Raises:
        ServaxError: There are no records, they do not belong together, or the ``audit.json`` of
            an audit is not there or not what `write_audit` writes.
    """
    home = home_of(path)
    source = home / "report" / JSON
    try:
        if (home / ANSWERS).exists():
            return RegressionResult.read(home, json.loads(source.read_text(encoding="utf-8")))
        records = read_run(path)
        if "audit" not in records.provenance:
            return records
        return _read_audit(records, json.loads(source.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PathError(
            source,
            f"cannot be read as the {JSON} of an audit ({type(error).__name__}); expected the one "
            "that `servax audit` has written beside these records",
        ) from error


def _read_audit(records: Records, told: Mapping[str, Any]) -> AuditResult:
    frames = {
        # null is what was not measured
        name: None if (rows := told.get(name)) is None else pd.DataFrame(rows).infer_objects()
        for name in ("measures", "realisability", "detection", "answers", "speech")
    }
    frames = {n: None if f is None else f.replace({None: np.nan}) for n, f in frames.items()}
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


def title(audit: AuditResult) -> str:
    """Return the heading of the whole."""
    return f"servax audit: {audit.found.target} on {audit.found.corpus}"


def report(audit: AuditResult) -> Report:
    """Return all that the pages and files say, in their order."""
    card, pairs = audit.card, list[tuple[str, str]]()
    for name, value in card.items():
        words = name.replace("_", " ")
        # Entries of a group stand one by one: ``attacks · pgd``.
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            pairs += [(f"{words} · {inner}", plain(part)) for inner, part in value.items()]
        else:
            pairs.append((words, plain(value)))
    recordings, systems = (
        list(dict.fromkeys(getattr(clip, name) for clip in audit.clips))
        for name in ("utterance", "system")
    )

    def place(clip: Clip) -> tuple[int, int, int]:
        here = recordings.index(clip.utterance), systems.index(clip.system)
        return *here, KINDS.index(clip.kind)

    curves = picture(audit)
    sections: list[Section] = [*audit_tables(audit), *([curves] if curves else [])]
    if pairs:
        sections.append(Prose("Evaluation card", pairs=tuple(pairs)))
    if audit.clips:
        sections.append(Sounds(tuple(sorted(audit.clips, key=place))))
    sections.append(Prose("What the words mean", definitions(audit)))
    return Report(
        title=title(audit),
        findings=tuple(verdict(audit)),
        provenance=tuple((name, plain(card[name])) for name in _FACTS if name in card),
        sections=tuple(sections),
        first=FIRST,
        opening=tuple(summary(audit)),
        terms=terms(audit),
        files={JSON: f"{json_text(document(audit), indent=1)}\n", JUNIT: junit(audit)},
    )


def curve(audit: AuditResult, system: str, knowledge: Sequence[str]) -> list[tuple[float, float]]:
    """Return (ε, UAR in percent) of a system, clean input first, up to the audited radius.

    At each ε stands the worst case of all attacks of these attackers that stay within it. Empty
    where none of them tried.
    """
    strengths = sorted({c.strength for c in audit.within(system, knowledge)})
    points = [(0.0, 100 * audit.clean(system).uar)]
    for strength in strengths:
        inside = audit.within(system, knowledge, radius=strength)
        points.append((strength, 100 * audit.standing(system, inside).uar))
    return points if strengths else []


def picture(audit: AuditResult) -> Picture | None:
    """Return UAR against ε, by what the attacker knows; None where nobody attacked.

    A panel is left out where no defence was tried. Nothing hides the undefended model, so all
    panels show its white-box attacks.
    """
    bare = {UNDEFENDED: curve(audit, UNDEFENDED, (*UNKNOWING, *KNOWING))}
    who = {"does not know": UNKNOWING, "knows": KNOWING} if audit.defences else {"": ()}
    panels: dict[str, Lines] = {}
    for whom, knowledge in who.items():
        lines = bare | {name: curve(audit, name, knowledge) for name in audit.defences}
        lines = {name: points for name, points in lines.items() if points}
        if set(lines) - ({UNDEFENDED} if audit.defences else set()):
            panels[f"an attacker who {whom} the defence" if whom else ""] = lines
    if not panels:
        return None
    decibels = audit.decibels(audit.radius)
    words = "ε; 0 is clean"
    if audit.by_ratio:
        words += ", shares of an utterance's norm"
        words += f"; {audit.radius:g} is {ratio_of(audit.radius):.4g} dB"
    elif decibels >= 0:
        words += f", {audit.radius:g} is {decibels:.1f} dB"
    sides = " Left, the attacker does not know the defence; right, the attacker does."
    classes = len(audit.found.classes)
    return Picture(
        "uar-over-epsilon",
        "UAR against the size of the attack",
        "At each ε stands the worst case over all attacks that stay within it, per utterance."
        + sides * (len(panels) > 1)
        + " Nothing hides the undefended model, so its line is the white-box one throughout."
        " The dotted line is chance.",
        png(size_curves(panels, among=audit.systems, classes=classes, words=words)),
    )


def document(audit: AuditResult) -> dict[str, Any]:
    """Return everything that a program needs, for `servax.files.json_text`.

    What was not measured is None or ``nan``, null in JSON.

    Keys: `schema_version`, `title`, `summary` (sentences for everyone), `verdict` (with exact
    figures), `passed` (null where nothing was asked), `fail_under_percent`, `judged_by`, `radius`,
    `radius_db`, `chance`, `classes`, `corpus`, `target`, `utterances`, `speakers`, `no_interval`
    (why `low` and `high` are null, where they are), `systems`, `findings`, `measures`,
    `realisability`, `detection`, `answers` (where a system is random), `speech` (where one was
    listened to), `clips` (without their sound), `card`.
    A system has `name`, `clean`, `worst_case` (over all attacks), `by_knowledge` (knowledge →
    worst case) and `attacks` (a row per attack, knowledge and strength). UARs are shares.
    """
    rows, asked = attack_rows(audit), audit.fail_under is not None
    systems = [
        {
            "name": name,
            "clean": _standing(audit.clean(name)),
            "worst_case": _standing(audit.worst(name)),
            "by_knowledge": {
                knowledge: _standing(audit.worst(name, [knowledge]))
                for knowledge in ATTACKERS
                if audit.conditions(name, [knowledge])
            },
            "attacks": _rows(rows[rows["system"] == name].drop(columns="system")),
        }
        for name in audit.systems
    ]
    clips = [
        {name: value for name, value in vars(clip).items() if name != "waveform"}
        | {"seconds": clip.waveform.size / clip.sample_rate}
        for clip in audit.clips
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "title": title(audit),
        "summary": _spaced(summary(audit)),
        "verdict": _spaced(verdict(audit)),
        "passed": audit.passes if asked else None,
        "fail_under_percent": audit.fail_under,
        "judged_by": audit.judged_by if asked else None,
        "radius": audit.radius,
        "radius_db": audit.decibels(audit.radius),
        "chance": audit.chance,
        "classes": audit.found.classes,
        "corpus": audit.found.corpus,
        "target": audit.found.target,
        "utterances": audit.found.labels.size,
        "speakers": audit.speakers,
        "no_interval": audit.no_interval or None,
        "systems": systems,
        "findings": [finding.to_json() for finding in audit.findings],
        "measures": _rows(audit.measures),
        "realisability": _rows(audit.realisability),
        "detection": _rows(audit.detection),
        **({} if audit.answers is None else {"answers": _rows(audit.answers)}),
        **({} if audit.speech is None else {"speech": _rows(audit.speech)}),
        "clips": clips,
        "card": audit.card,
    }


def _spaced(told: Sequence[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in told]


def _rows(frame: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    return None if frame is None else frame.to_dict("records")  # type: ignore[return-value]


def _standing(standing: Standing | None) -> dict[str, Any] | None:
    return None if standing is None else vars(standing)


def junit(audit: AuditResult) -> bytes:
    """Return an audit as JUnit XML, which CI servers show: the findings and what is asked.

    An error of a check is a failure, what was not measured is skipped, and a warning or note passes
    with its sentence as output. Each judged system is a case of class ``fail-under``; it is a
    failure too where the figures cannot be trusted. Nothing depends on the clock.
    """
    suite = ET.Element("testsuite", name=_text(title(audit)))

    def case(of: str, name: str) -> ET.Element:
        return ET.SubElement(suite, "testcase", classname=_text(of), name=_text(name))

    named: Counter[tuple[str, str]] = Counter()
    for each in audit.findings:
        named[each.subject, each.check] += 1
        number, said = named[each.subject, each.check], _text(each.statement)
        one = case(each.subject, each.check if number == 1 else f"{each.check} {number}")
        if each.severity == "error":
            ET.SubElement(one, "failure", message=said).text = _text(plain(each.evidence))
        elif each.severity == "not-measured":
            ET.SubElement(one, "skipped", message=said)
        else:
            ET.SubElement(one, "system-out").text = f"{each.severity}: {said}"
    for system in audit.judged if audit.fail_under is not None else ():
        one = case("fail-under", f"{system} has {audit.wanted}")
        low = [audit.below[system]] if system in audit.below else []
        if reasons := low + audit.untrusted:
            ET.SubElement(one, "failure", message=_text("; ".join(reasons)))
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    counted = {name: str(len(suite.findall(path))) for name, path in counts.items()}
    for name in ("tests", "failures", "errors", "skipped"):
        suite.set(name, counted.get(name, "0"))
    ET.indent(suite)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def _text(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text).replace("\N{NO-BREAK SPACE}", " ")
