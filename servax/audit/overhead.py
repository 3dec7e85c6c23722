"""What an audit takes beside its attacks, measured: keeping a stage, a sound, the report.

The report is written once for trial, of the same systems, attacks and utterances as the real one
but with every answer right, into a folder that goes again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from servax.audit import sounding
from servax.audit.attacking import rows
from servax.audit.card import evaluation_card
from servax.audit.findings import findings
from servax.audit.scene import Scene
from servax.audit.tasks import TABLE, Planned, provenance
from servax.evaluation import records
from servax.evaluation.threats import Threat
from servax.report.audit import AuditResult, write_audit


@dataclass(frozen=True)
class Overhead:
    """Seconds that no attack takes."""

    stage: float
    """To keep the result of a stage and to read it again."""
    sound: float
    """To turn one utterance into what the report plays, by all systems."""
    round_trip: float
    """To turn all utterances into sound and back, attacked and clean."""
    report: float
    """To judge the records and write the pages, without sounds."""


def measured(scene: Scene, planned: list[Planned]) -> Overhead:
    """Return what the parts beside the attacks cost on this machine."""
    frame = _as_if_right(scene, planned)
    with tempfile.TemporaryDirectory(prefix="servax-audit-") as folder:
        place = Path(folder)
        clean = frame[frame["attack"] == "none"]
        stage = _timed(lambda: _kept(scene, clean, place / TABLE))
        report = _timed(lambda: _reported(scene, planned, frame, place))
    made = {system.name: scene.material.x for system in scene.systems}
    first = str(scene.material.corpus.utterances["utterance"].iloc[0])
    sound = _timed(lambda: list(sounding.of_utterance(scene, 0, first, made)))
    return Overhead(stage, sound, 2 * len(scene.material) * sound, report)


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _kept(scene: Scene, frame: pd.DataFrame, path: Path) -> None:
    records.write(frame, path, provenance=provenance(scene))
    records.read(path)


def _as_if_right(scene: Scene, planned: list[Planned]) -> pd.DataFrame:
    """Return records of all that is planned in which every answer is right."""
    told: list[tuple[str, Threat | None, float]] = [(s.name, None, 0.0) for s in scene.systems]
    for each in planned:
        if each.kind == "attack" and each.threat is not None:
            for name in each.scored:
                threat = replace(each.threat, knowledge=each.knowledge(name))  # type: ignore[arg-type]
                sizes = threat.sweep or (threat.strength,)
                told += [(name, threat, size) for size in sizes]
    material, right = scene.material, scene.material.y
    frames = [
        rows(material, scene.identity, name, right, threat, size) for name, threat, size in told
    ]
    return records.validate(pd.concat(frames, ignore_index=True))


def _reported(scene: Scene, planned: list[Planned], frame: pd.DataFrame, folder: Path) -> None:
    attacked = frame[frame["attack"] != "none"]
    measures = attacked[["defence", "attack", "knowledge", "strength"]].drop_duplicates()
    measures = measures.assign(draws=1)
    result = AuditResult(
        records=records.Records(frame, provenance(scene)),
        findings=tuple(findings(scene, frame, [], measures)),
        measures=measures,
        realisability=None,
        clips=(),
        card=evaluation_card(scene, planned, measures),
        radius=scene.settings.budget.radius,
        fail_under=None,
    )
    write_audit(result, folder / "report")
