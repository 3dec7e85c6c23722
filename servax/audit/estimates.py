"""What an audit has before it, stage by stage, measured where it will run.

Beside the attacks there are the keeping of stages, the way to sound and the report. The report is
written once for trial, of the same systems, attacks and utterances as the real one but with every
answer right, into a folder that goes again. So an estimate costs as much as a report does, and only
who asks for one pays for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from servax.audit import sounds
from servax.audit.plan import TABLE, Planned
from servax.audit.run import gathered
from servax.audit.settings import Audit
from servax.audit.speed import timed
from servax.evaluation import records
from servax.evaluation.threats import Threat
from servax.report.audit import write_audit


@dataclass(frozen=True)
class Estimate:
    """What an audit has before it."""

    title: str
    """Of the stage."""
    seconds: float
    """At most, measured on one batch on this machine."""
    done: bool
    """Whether it is done already."""


def of_attacks(planned: Sequence[Planned]) -> list[Estimate]:
    """Return what each stage takes at most; utterances that fall leave sooner."""
    tasks = [each.task for each in planned]
    return [Estimate(t.stage.name, t.cost, t.stage.result() is not None) for t in tasks]


def of_audit(audit: Audit, planned: list[Planned], *, clips: int) -> list[Estimate]:
    """Return what each stage and the report take at most, with all that is beside the attacks.

    Args:
        audit: What is audited.
        planned: Its stages.
        clips: Utterances that the report plays.
    """
    frame = _as_if_right(audit, planned)
    clean = frame[frame["attack"] == "none"]
    with tempfile.TemporaryDirectory(prefix="servax-audit-") as folder:
        place = Path(folder)

        def kept() -> None:
            records.write(clean, place / TABLE, provenance=audit.provenance)
            records.read(place / TABLE)

        keeping = timed(kept)
        report = timed(lambda: write_audit(gathered(audit, planned, frame), place / "report"))
    made = {system.name: audit.dataset.x for system in audit.systems}
    first = str(audit.dataset.corpus.utterances["utterance"].iloc[0])
    clip = timed(lambda: list(sounds.of_utterance(audit, 0, first, made)))
    one = replace(audit, settings=replace(audit.settings, speech=1))
    heard = timed(lambda: sounds.changes(one, audit.systems[0], [], tick=lambda: None))
    # An utterance becomes sound and is heard again, attacked and clean; some are listened to.
    beside = {"sound": 2 * clip, "speech": audit.settings.speech * heard}
    stages = [
        replace(e, seconds=e.seconds + keeping + p.task.steps * beside.get(p.kind, 0.0))
        for e, p in zip(of_attacks(planned), planned, strict=True)
    ]
    # The records of every stage are read for the report, of those too that are done already.
    last = report + clips * clip + len(planned) * keeping
    return [*stages, Estimate("checks of the records, sounds and report", last, done=False)]


def _as_if_right(audit: Audit, planned: Sequence[Planned]) -> pd.DataFrame:
    """Return records of all that is planned in which every answer is right."""
    told: list[tuple[str, Threat | None, float]] = [(s.name, None, 0.0) for s in audit.systems]
    for each in planned:
        if each.kind == "attack" and each.threat is not None:
            for name in each.systems:
                told += [(name, each.against(name), size) for size in each.threat.strengths]
    right = audit.dataset.y
    frames = [audit.engine.rows(name, right, threat, size) for name, threat, size in told]
    return records.validate(pd.concat(frames, ignore_index=True))
