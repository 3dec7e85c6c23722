"""An audit from settings to its pages: load, estimate, attack, check, report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from servax.audit import sounds
from servax.audit.card import evaluation_card
from servax.audit.checking import findings
from servax.audit.plan import Planned, plan
from servax.audit.settings import Audit
from servax.evaluation import records
from servax.evaluation.answers import TIMES, shares, worst
from servax.report import ReportPaths
from servax.report.audit import AuditResult, Measure, write_audit
from servax.stages import Watcher, held


@dataclass(frozen=True)
class Audited:
    """What an audit left behind."""

    result: AuditResult
    """All that was found."""
    paths: ReportPaths
    """The pages."""
    passed: bool
    """Whether every defence (the model, where there is none) kept what was asked, and the figures
    can be trusted."""


def run_audit(
    audit: Audit,
    *,
    fail_under: float | None = None,
    judged_by: Measure = "uar",
    clips: int = 2,
    planned: list[Planned] | None = None,
    watcher: Watcher | None = None,
) -> Audited:
    """Do what an audit says and leave records and report in its folder.

    Stages that are done already are not done again.

    Args:
        audit: Systems, utterances, settings, folder.
        fail_under: The least UAR, in percent, that a defence may keep in the worst case.
        judged_by: What `fail_under` is of instead: the lower end of the interval, or points lost.
        clips: Utterances that the report plays.
        planned: The stages of the audit, where they are known already.
        watcher: Is told how far the audit is.

    Raises:
        ServaxError: A file cannot be read or written, an attack left its ball, or another process
            audits into the folder.
    """
    watcher = watcher or Watcher()
    planned = plan(audit) if planned is None else planned
    with held(audit.folder):
        watcher.plan([(each.task.stage.name, each.task.cost) for each in planned])
        for each in planned:
            each.task.perform(watcher)
        frames = [each.frame for each in planned if each.kind in ("clean", "attack")]
        frame = records.validate(pd.concat(frames, ignore_index=True))
        result = gathered(audit, planned, frame, fail_under, judged_by, clips)
        records.write(frame, audit.folder / "records/audit.parquet", provenance=audit.provenance)
        paths = write_audit(result, audit.folder / "report")
        return Audited(result, paths, result.passes)


def gathered(
    audit: Audit,
    planned: list[Planned],
    frame: pd.DataFrame,
    fail_under: float | None = None,
    judged_by: Measure = "uar",
    clips: int = 0,
) -> AuditResult:
    """Return everything that the stages of an audit found, its records being `frame`."""
    measures = pd.DataFrame([row for each in planned for row in _measures(each)])
    told: dict[str, list[dict[str, Any]]] = {
        name: [row for each in planned for row in each.result.get(name, ())]
        for name in ("gaps", "detection", "speech", "findings")
    }
    kept = [each for each in planned if each.kept]
    made = {
        name: each.inputs
        for each in (kept if clips else ())
        for name in each.systems
        if each.knowledge(name) in records.KNOWING
    }
    attacks = {each.threat.name for each in kept if each.threat}
    led = {each.threat.name for each in planned if each.threat and each.threat.towards}
    return AuditResult(
        records=records.Records(frame, audit.provenance),
        findings=tuple(findings(audit, frame, led, told["findings"], measures)),
        measures=measures,
        realisability=pd.DataFrame(told["gaps"]) if told["gaps"] else None,
        clips=tuple(sounds.clips(audit, frame, attacks, made, count=clips)),
        card=evaluation_card(audit, planned, measures),
        radius=audit.settings.budget.radius,
        fail_under=fail_under,
        judged_by=judged_by,
        detection=pd.DataFrame(told["detection"]) if told["detection"] else None,
        answers=_answers(planned),
        speech=pd.DataFrame(told["speech"]) if told["speech"] else None,
    )


def _answers(planned: list[Planned]) -> pd.DataFrame | None:
    """Return a row for each random system and attack, and one for the worst of its attacks."""
    rows: list[dict[str, Any]] = []
    found: dict[str, list[pd.DataFrame]] = {}
    for each in planned:
        for name, told in each.result.get("answers", {}).items():
            attack = each.threat.name if each.threat else "none"
            one = pd.DataFrame(told)
            rows.append({"defence": name, "attack": attack, "knowledge": each.knowledge(name)})
            rows[-1] |= shares(one)
            if each.threat:
                found.setdefault(name, []).append(one)
    for name, every in found.items():
        who = {"defence": name, "attack": records.WORST_CASE, "knowledge": "all"}
        rows.append(who | shares(worst(every)))
    return pd.DataFrame(rows).assign(answers=TIMES) if rows else None


def _measures(each: Planned) -> list[dict[str, Any]]:
    """Return one row for each system that a threat was tried on."""
    if each.threat is None or each.kind != "attack":
        return []
    result, seconds = each.result, each.task.stage.seconds()
    told = {
        "attack": each.threat.name,
        "strength": each.threat.strength,
        "draws": result.get("draws", 1),
        "seconds": math.nan if seconds is None else seconds,
        **result.get("measures", {}),
    }
    return [{"defence": name, "knowledge": each.knowledge(name), **told} for name in each.systems]
