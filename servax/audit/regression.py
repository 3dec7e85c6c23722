"""An audit of a model that answers in numbers: squared error and concordance, no classes.

Threats, balls, defences, surrogates and utterances are those of other audits. What is left out: the
sanity checks that look at classes, sound and speech of what was made.
"""

from __future__ import annotations

import hashlib
import io
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
from servax.evaluation.records import UNDEFENDED, WORST_CASE
from servax.evaluation.regression import Spoken, answers, attacked, measured, suited
from servax.evaluation.statistics import no_interval
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.evaluation.trial import shut
from servax.files import json_text, write_whole
from servax.perturbation import ratio_of
from servax.report import Head, ReportPaths, Table
from servax.report.rendering import Prose, Report, write
from servax.report.tables import Field, Row, listing, number, short
from servax.stages import Task, Watcher, held, make_stage

OWN_ANSWERS = (
    "The corpus does not say what is true: what the bare model answers without attack stands in "
    "its place, so errors say how far an attacker moves answers, not how good they were."
)
LEFT_OUT = (
    "An attacker who does not know the defence (oblivious) attacks the bare model, and all "
    "defences answer to the same inputs.",
    "The worst case takes of each utterance the answer of largest error over all attacks.",
    "Most sanity checks of other audits look at classes, and were not made.",
)


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

    def run(self, tasks: Sequence[Task], watcher: Watcher) -> tuple[Report, ReportPaths, bool]:
        """Do what is not done yet; leave answers and report in the folder.

        Returns:
            The report, where it is, and whether a check found an error.
        """
        with held(self.folder):
            watcher.plan([(task.stage.name, task.cost) for task in tasks])
            rows = [row for task in tasks for row in task.perform(watcher)["rows"]]
            frame = pd.DataFrame(rows)
            checked = self.findings(frame)
            report = self.report(measured(frame, self.dataset.names), checked)
            written = io.BytesIO()
            frame.to_parquet(written, index=False)
            write_whole(self.folder / "records/answers.parquet", written.getvalue())
            wrong = any(each.severity == "error" for each in checked)
            return report, write(report, self.folder / "report"), wrong

    def report(self, found: pd.DataFrame, checked: Sequence[Finding]) -> Report:
        """Return the pages of what was measured."""
        table = self.table(found)
        bare = found[found["defence"] == UNDEFENDED]
        clean, worst = (
            float(bare.loc[bare["attack"] == name, "squared error"].iloc[0])
            for name in ("none", WORST_CASE)
        )
        sentences = [
            f"Without attack the squared error of the bare model is {number(clean, digits=4)}, "
            f"under the worst of all attacks {number(worst, digits=4)}."
        ]
        sentences += [OWN_ANSWERS] * self.own
        few = no_interval(len(self.dataset.corpus.speakers))
        sentences += [few] * bool(few)
        sentences += [each.statement for each in checked if each.severity in ("error", "warning")]
        told = {name: str(value) for name, value in self.origin.items()}
        told |= {"machine": told.get("machine", platform.machine())}
        told |= {each.name: each.source for each in (*self.systems, *self.surrogates)}
        told |= {"settings": json_text(self.settings.to_json(), indent=None)}
        document = {
            "regression": True,
            "dimensions": list(self.dataset.names),
            "own answers stand for the truth": self.own,
            "measures": found.to_dict("records"),
            "findings": [each.to_json() for each in checked],
            "provenance": dict(self.origin),
            "settings": self.settings.to_json(),
        }
        return Report(
            title=f"servax audit: {self.folder.name} on {self.dataset.corpus.name}",
            findings=tuple(sentences),
            provenance=tuple(told.items()),
            sections=(table, Prose("What stands here, and what does not", LEFT_OUT)),
            first=(table.place,),
            files={"audit.json": json_text(document)},
        )

    def table(self, found: pd.DataFrame) -> Table:
        """Return squared error and concordance of each condition."""

        def strength(row: Row) -> str:
            if row["attack"] in ("none", WORST_CASE):
                return ""
            size = row["strength"]
            return f"{ratio_of(size):.4g} dB" if self.settings.ratios_db else short(size)

        def interval(row: Row) -> str:
            return f"{number(row['low'], digits=4)} to {number(row['high'], digits=4)}"

        names, told = self.dataset.names, bool(found["low"].notna().any())

        def value(name: str) -> Field:
            return Field(Head(name), lambda row: number(row[name], digits=4))

        return listing(
            found,
            [
                Field(Head("system"), lambda row: str(row["defence"])),
                Field(Head("attack"), lambda row: str(row["attack"])),
                Field(Head("attacker"), lambda row: str(row["knowledge"]).replace("_", " ")),
                Field(Head("size"), strength),
                value("squared error"),
                *([Field(Head("95 % over speakers"), interval)] if told else []),
                *(value(f"{what} {name}") for what in ("CCC", "moved") for name in names),
            ],
            title="Squared error and concordance",
            note="CCC is the concordance correlation coefficient (Lin 1989): 1 where answers and "
            "truth agree, 0 where they have nothing in common. Moved is the mean way from the "
            "answers without attack; an attack towards a dimension pushes that one up or down.",
            name="regression",
            columns_named=4,
        )
