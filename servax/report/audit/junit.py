"""An audit as JUnit XML, which CI servers show: a test case per check, system and demand."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree as ET

from servax.evaluation.checks import Finding
from servax.report.audit.page import title
from servax.report.audit.plain import plain
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import Scores
from servax.report.audit.threshold import below, judged, untrusted, wanted

__all__ = ["junit"]

NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def junit(result: AuditResult, found: Scores) -> bytes:
    """Return the findings, and what ``--fail-under`` asks, as one JUnit test suite.

    An error of a check is a failure, what was not measured is skipped, and a warning or note passes
    with its sentence as output. Each judged system is a case of class ``fail-under``; it is a
    failure too where the figures cannot be trusted. Nothing depends on the clock.
    """
    suite = ET.Element("testsuite", name=_text(title(found)))
    named: Counter[tuple[str, str]] = Counter()
    for finding in result.findings:
        named[finding.subject, finding.check] += 1
        number = named[finding.subject, finding.check]
        name = finding.check if number == 1 else f"{finding.check} {number}"
        _told(_case(suite, finding.subject, name), finding)
    if result.fail_under is not None:
        low, doubts = below(result, found), untrusted(result)
        for system in judged(found):
            reasons = [low[each] for each in (system,) if each in low] + doubts
            case = _case(suite, "fail-under", f"{system} has {wanted(result)}")
            if reasons:
                ET.SubElement(case, "failure", message=_text("; ".join(reasons)))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
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
    return NO_XML.sub("\N{REPLACEMENT CHARACTER}", text).replace("\N{NO-BREAK SPACE}", " ")
