"""An audit from settings to its pages: load, estimate, attack, check, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from servax.audit import sounds
from servax.audit.card import evaluation_card
from servax.audit.checking import findings
from servax.audit.plan import TABLE, Planned, inputs_of, plan
from servax.audit.settings import Audit
from servax.evaluation import records
from servax.report.audit import AuditPaths, AuditResult, Measure, verdict_ok, write_audit
from servax.stages import Watcher, held

RECORDS = "records"
REPORT = "report"


@dataclass(frozen=True)
class Audited:
    """What an audit left behind."""

    result: AuditResult
    """All that was found."""
    paths: AuditPaths
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
        result = gathered(audit, planned, fail_under, judged_by, clips)
        table = audit.folder / RECORDS / "audit.parquet"
        records.write(result.records.frame, table, provenance=result.records.provenance)
        paths = write_audit(result, audit.folder / REPORT)
        return Audited(result, paths, verdict_ok(result))


def gathered(
    audit: Audit,
    planned: list[Planned],
    fail_under: float | None,
    judged_by: Measure,
    clips: int,
) -> AuditResult:
    """Return everything that the stages of an audit found."""
    tables = [each for each in planned if each.kind in ("clean", "attack")]
    frame = pd.concat(
        [records.read(each.task.stage.folder / TABLE).frame for each in tables], ignore_index=True
    )
    whole = records.Records(records.validate(frame), audit.provenance)
    measures = pd.DataFrame([row for each in planned for row in _measures(each)])
    gaps = [row for each in planned if each.kind == "sound" for row in _result(each)["gaps"]]
    detectors = [each for each in planned if each.kind == "detector"]
    noticed = [row for each in detectors for row in _result(each)["detection"]]
    probes = [each for each in planned if each.kind == "probes"]
    probed = [finding for each in probes for finding in _result(each)["findings"]]
    return AuditResult(
        records=whole,
        findings=tuple(findings(audit, whole.frame, probed, measures)),
        measures=measures,
        realisability=pd.DataFrame(gaps) if gaps else None,
        clips=tuple(sounds.clips(audit, whole.frame, _kept(planned), count=clips)),
        card=evaluation_card(audit, planned, measures),
        radius=audit.settings.budget.radius,
        fail_under=fail_under,
        judged_by=judged_by,
        detection=pd.DataFrame(noticed) if noticed else None,
    )


def _kept(planned: list[Planned]) -> Mapping[str, Any]:
    """Return the inputs that an attacker made who knows the system, by system."""
    kept = [e for e in planned if e.kind == "attack" and e.threat is not None and e.threat.kept]
    return {
        name: inputs_of(each.task.stage)
        for each in kept
        for name in each.scored
        if each.knowledge(name) in ("adaptive", "bpda")
    }


def _measures(each: Planned) -> list[dict[str, Any]]:
    """Return one row for each system that a threat was tried on."""
    if each.threat is None or each.kind != "attack":
        return []
    result = _result(each)
    told = {
        "attack": each.threat.name,
        "strength": each.threat.strength,
        "draws": result.get("draws", 1),
        "seconds": each.task.stage.seconds(),
        **result["measures"],
    }
    return [{"defence": name, "knowledge": each.knowledge(name), **told} for name in each.scored]


def _result(each: Planned) -> dict[str, Any]:
    return each.task.stage.result() or {}
