"""An audit of a model that answers in numbers: squared error and concordance, no classes.

Threats, balls, defences, surrogates and utterances are those of other audits. What is left out: the
sanity checks that look at classes, sound and speech of what was made.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from servax.audit.settings import AuditSettings, refuse_what_cannot_be
from servax.audit.speed import Speed
from servax.errors import SettingError
from servax.evaluation.checks import Finding, attacks_move, white_box
from servax.evaluation.dataset import inputs_of, some
from servax.evaluation.options import defended, surrogate
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.regression import Spoken, answers, attacked, suited
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.evaluation.trial import shut
from servax.report import ReportPaths
from servax.report.regression import RegressionResult
from servax.stages import Task, Watcher, held, make_stage


@dataclass(frozen=True, kw_only=True, eq=False)
class RegressionAudit:
    """An audit that can begin: everything is loaded, nothing attacked or written."""

    settings: AuditSettings
    systems: tuple[System, ...]
    """The bare model first, then its defences."""
    surrogates: tuple[System, ...]
    """Models whose gradients a transfer attack takes."""
    dataset: Spoken
    """The utterances with what is true of them."""
    own: bool
    """Whether the bare model's own answers stand for the truth."""
    folder: Path
    """Of the audit."""
    origin: Mapping[str, Any]
    """Provenance that settings do not decide."""

    @classmethod
    def of(
        cls,
        settings: AuditSettings,
        subject: System,
        *,
        defences: Sequence[str],
        surrogates: Sequence[str] = (),
        folder: Path,
        origin: Mapping[str, Any],
        progress: Any = None,
    ) -> RegressionAudit:
        """Return an audit; everything is loaded and refused here, nothing written.

        Raises:
            SettingError: A defence or surrogate does not fit the model, or no attack that is wanted
                is possible.
            ServaxError: The corpus cannot be read, or the model answers NaN or infinity.
        """
        choice = settings.selection
        fold = choice.fold()
        corpus = some(fold.test, choice.utterances, seed=choice.seed)
        subject, x = inputs_of(subject, fold, corpus, progress)
        some_x = x[: settings.batch_size]
        reason = shut(subject.model, some_x)
        subject = replace(subject, shut=reason and (subject.shut or reason))
        refuse_what_cannot_be(settings, subject)
        bare = replace(subject, name=UNDEFENDED)
        behind = [defended(bare, each, seed=settings.seed) for each in defences]
        systems = [bare, *(replace(s, shut=s.shut or shut(s.model, some_x)) for s in behind)]
        others = [surrogate(subject, each) for each in surrogates]
        called_so = [s.name for s in (*systems, *others)]
        twice = [name for name in called_so if called_so.count(name) > 1]
        if twice:
            raise SettingError("a name", twice[0], "one of its own; NAME=WHAT gives another")
        values, called = (
            choice.values(subject.labels),
            list(map(str, corpus.utterances["utterance"])),
        )
        if values is None:
            truth = answers(bare, x, "truth", names=called, seed=settings.seed)
        else:
            truth = torch.tensor([values[name] for name in called])
        heard = Spoken(corpus=corpus, x=x, truth=truth, names=subject.labels, seed=settings.seed)
        return cls(
            settings=settings,
            systems=tuple(systems),
            surrogates=tuple(others),
            dataset=heard,
            own=values is None,
            folder=folder,
            origin=origin,
        )

    def plan(self) -> list[Task]:
        """Return its stages: what each system answers to clean input, and under each threat."""
        bare, behind, count = self.systems[0], self.systems[1:], len(self.dataset.x)
        knowledge = self.settings.knowledge
        sources = [other.name for other in self.surrogates]
        suite = self.settings.suite(bare)
        threats = suite.threats(knowledge, classes=bare.labels, surrogates=sources)
        x, y = self.dataset.x[:1], torch.zeros(1, dtype=torch.int64)
        tasks = [self._task("clean", "clean input", {}, None, bare, self.systems, 0.0)]
        made = {
            known: {
                (e.attack, e.strengths, e.towards)
                for e in suited(threats, bare, bare)
                if e.knowledge == known
            }
            for known in ("oblivious", "adaptive")
        }
        # Both attackers of the bare model make the same inputs with these: once is enough.
        both = made["oblivious"] & made["adaptive"] if behind else set()
        alone = Speed.of(bare, x, y)
        for system in (*self.systems, *self.surrogates):
            speed = Speed.of(system, x, y)
            speed = replace(speed, gradient=speed.gradient or alone.gradient)  # BPDA's
            for threat in suited(threats, system, bare):
                if (threat.knowledge == "transfer") != (system.name in sources):
                    continue
                shared = (threat.attack, threat.strengths, threat.towards) in both
                meets: Sequence[System] = self.systems if threat.surrogate else (system,)
                if threat.knowledge == "oblivious":
                    meets = self.systems if shared or "adaptive" not in knowledge else behind
                elif threat.knowledge == "adaptive" and system is bare and shared:
                    continue
                if not meets:
                    continue
                knows = threat.knowledge.replace("_", " ")
                task = self._task(
                    f"{threat.knowledge}-{threat.name}-{system.name}",
                    f"{knows} {threat.name} on {system.name}",
                    {"threat": repr(threat), "towards": threat.towards},
                    threat,
                    system,
                    meets,
                    speed.of_attack(threat, count),
                )
                tasks.append(task)
        return tasks

    def _task(
        self,
        name: str,
        title: str,
        told: Mapping[str, Any],
        threat: Threat | None,
        source: System,
        systems: Sequence[System],
        seconds: float,
    ) -> Task:
        heard = self.dataset
        digest = hashlib.sha256(heard.x.numpy().tobytes() + heard.truth.numpy().tobytes())
        key = {"heard": digest.hexdigest(), "seed": heard.seed, **told}
        key["systems"] = {system.name: system.identity for system in systems}
        key["source"] = source.identity

        def work(stage: Any, watcher: Watcher) -> Mapping[str, Any]:
            if threat is None:
                frame = pd.concat(
                    heard.rows(
                        answers(each, heard.x, "clean", seed=heard.seed, names=heard.utterances),
                        each.name,
                    )
                    for each in systems
                )
            else:
                frame = attacked(threat, source, systems, heard, watcher.advance)
            return {"rows": frame.to_dict("records")}

        stage = make_stage(self.folder, name, title, key)
        return Task(stage, "attack", (), len(heard.x) if threat else 1, seconds, work)

    def findings(self, frame: pd.DataFrame) -> list[Finding]:
        """Return what the checks find that look at no classes: was anybody attacked, and how?"""
        bare, names = self.systems[0], list(self.dataset.names)
        keys = ["defence", "utterance"]
        clean = frame[frame["attack"] == "none"].set_index(keys)[names]
        attacked = frame[frame["attack"] != "none"]
        before = clean.loc[list(map(tuple, attacked[keys].to_numpy()))].to_numpy()
        attacked = attacked.assign(moved=(attacked[names].to_numpy() != before).any(axis=1))
        each = attacked.groupby(["defence", "attack", "strength"])["moved"]
        measures = each.agg(["size", "sum"]).reset_index()
        measures = measures.rename(columns={"size": "attacked", "sum": "moved"})
        found = [white_box(system, bare, self.settings.knowledge) for system in self.systems]
        return found + [
            attacks_move(system.name, measures[measures["defence"] == system.name])
            for system in self.systems
        ]

    def run(self, tasks: Sequence[Task], watcher: Watcher) -> tuple[RegressionResult, ReportPaths]:
        """Do what is not done yet; leave answers and report in the folder."""
        with held(self.folder):
            watcher.plan([(task.stage.name, task.cost) for task in tasks])
            rows = [row for task in tasks for row in task.perform(watcher)["rows"]]
            frame = pd.DataFrame(rows)
            systems = (*self.systems, *self.surrogates)
            result = RegressionResult(
                answers=frame,
                dimensions=self.dataset.names,
                own=self.own,
                corpus=self.dataset.corpus.name,
                findings=tuple(self.findings(frame)),
                provenance={"machine": platform.machine(), **self.origin},
                sources={each.name: each.source for each in systems},
                settings=self.settings.to_json(),
            )
            return result, result.write(self.folder)
