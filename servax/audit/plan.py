"""What an audit attacks: threats against systems, as stages, and what follows.

A stage is kept under the hash of all that decides its result, as in a run of a recipe: an audit
that was killed goes on where it stopped, and one with another defence or attack computes that
alone. After the attacks come the checks that need a model, the way of attacked log-Mels to sound
and back, and what the fronts notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from servax.attacks import RandomNoise, Universal
from servax.audit import checking, sounds
from servax.audit.settings import Audit
from servax.errors import during
from servax.evaluation import records
from servax.evaluation.checks import MODEL_CHECKS
from servax.evaluation.dataset import training_waveforms
from servax.evaluation.distortion import available
from servax.evaluation.engine import covers
from servax.evaluation.realisability import gaps
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Knowledge, Threat
from servax.stages import Stage, Task, Watcher, make_stage
from servax.training import generator, global_seed

TABLE = "records.parquet"
INPUTS = "inputs.safetensors"
FITTED_ON = 200
"""Utterances of training speakers that one sound for everybody is fitted on, at most."""
Kind = Literal["clean", "attack", "probes", "sound", "detector", "speech"]
Work = Callable[[Stage, Watcher], Mapping[str, Any]]


@dataclass(frozen=True)
class Planned:
    """A task of an audit, what it is about and, once it is done, what it found."""

    task: Task
    kind: Kind
    systems: tuple[str, ...] = ()
    """Names of the systems that it is about."""
    threat: Threat | None = None
    """What they were attacked with."""

    @property
    def result(self) -> dict[str, Any]:
        """What the stage found; empty before it is done."""
        return self.task.stage.result() or {}

    @property
    def frame(self) -> pd.DataFrame:
        """The records that the stage left behind."""
        return records.read(self.task.stage.folder / TABLE).frame

    @property
    def kept(self) -> bool:
        """Whether an attack leaves its inputs behind."""
        return self.kind == "attack" and self.threat is not None and self.threat.kept

    @property
    def inputs(self) -> Tensor:
        """The inputs that the attack left behind, (N, ...)."""
        return load_file(self.task.stage.folder / INPUTS)["inputs"]

    def knowledge(self, system: str) -> str:
        """Return what the attacker of a system knows, or "none" for one that was not attacked.

        Nothing stands before the bare model: an oblivious attack is one by who knows it.
        """
        known = self.threat.knowledge if self.threat and system in self.systems else "none"
        return "adaptive" if known == "oblivious" and system == UNDEFENDED else known

    def against(self, system: str) -> Threat:
        """Return an attack as one on a system, with what its attacker knows."""
        assert self.threat is not None
        return replace(self.threat, knowledge=self.knowledge(system))  # type: ignore[arg-type]


def plan(audit: Audit) -> list[Planned]:
    """Return all stages of an audit, in an order in which each finds what it needs."""
    return _Plan(audit).all()


def _told(answers: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the answers of random systems as a stage keeps them; nothing where there are none."""
    told = {name: each.to_dict("list") for name, each in answers.items()}
    return {"answers": told} if told else {}


class _Plan:
    """Makes the stages of an audit."""

    def __init__(self, audit: Audit) -> None:
        self.audit, self.known = audit, set(audit.settings.knowledge)
        wanted: set[Knowledge] = self.known & {"black_box"}
        if any(system.gradients for system in (*audit.systems, *audit.surrogates.values())):
            # Where a transform has no gradient the identity stands in for it: no exact attack.
            wanted = self.known | ({"adaptive"} if "bpda" in self.known else set())
        self.threats = audit.suite.threats(
            wanted,
            classes=audit.dataset.corpus.labels,
            surrogates=list(audit.surrogates),
        )
        self.random = {system.name for system in audit.systems if audit.engine.random(system)}

    def all(self) -> list[Planned]:
        """Return the stages."""
        systems = self.audit.systems
        first, sources = self._clean(), list(self._on_sources())
        attacks = [*sources, *(e for system in systems for e in self._on(system, first, sources))]
        kept = [each for each in attacks if each.kept]
        return [
            first,
            *attacks,
            *map(self._probes, systems),
            *(map(self._to_sound, kept) if self.audit.subject.inputs == "logmel" else ()),
            *(found for system in systems for found in self._detector(system, kept)),
            *(found for system in systems for found in self._speech(system, kept)),
        ]

    def _clean(self) -> Planned:
        audit = self.audit

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            engine = replace(audit.engine, tick=watcher.advance)
            frame = engine.clean(audit.systems)
            records.write(frame, stage.folder / TABLE, provenance=audit.provenance)
            again = [system for system in audit.systems if system.name in self.random]
            return _told({each.name: engine.answers(each, audit.dataset.x) for each in again})

        return self._planned(
            "clean", "clean", "clean input", {}, work, audit.systems, self._asked(audit.systems)
        )

    def _on_sources(self) -> Iterator[Planned]:
        """Yield the attacks that are made once, for all systems: oblivious and transfer."""
        audit = self.audit
        for threat in self.threats:
            if threat.knowledge == "oblivious" and audit.defences and audit.subject.gradients:
                systems = audit.systems if self._one_for_both(threat) else audit.defences
                yield self._attack(threat, systems, audit.systems[0])
            elif threat.knowledge == "transfer":
                yield self._attack(threat, audit.systems, audit.surrogates[threat.surrogate])

    def _one_for_both(self, threat: Threat) -> bool:
        """Tell whether an oblivious attack is also one on the bare model by who knows it."""
        alike = [e for e in self.threats if e.knowledge == "adaptive" and covers(threat, e)]
        bare = self.audit.systems[0]
        if "adaptive" not in self.known or not alike or not bare.exact:
            return False
        # Behind a random model the attacker who knows it averages over draws, the other does not.
        return self.audit.engine.faced(alike[0], bare)[1] == 1

    def _on(self, system: System, first: Planned, sources: Sequence[Planned]) -> Iterator[Planned]:
        """Yield the attacks through one system; those that `sources` make already left out."""
        made = [e.threat for e in sources if e.threat and e.knowledge(system.name) == "adaptive"]
        for threat in self._against(system):
            if threat.knowledge != "adaptive" or not any(covers(each, threat) for each in made):
                yield self._attack(threat, [system], first=first)

    def _against(self, system: System) -> Iterator[Threat]:
        """Yield the threats that go through one system: by answers, by BPDA, by its gradients."""
        through: Knowledge = "adaptive" if system.exact else "bpda"
        white_box = system.gradients and bool({through, "adaptive"} & self.known)
        random = system.name in self.random
        wanted = [each for each in self.threats if random or not each.random_only]
        for threat in (each.on_random() for each in wanted) if random else wanted:
            if threat.knowledge == "black_box":
                if "black_box" in self.known or isinstance(threat.attack, RandomNoise):
                    yield threat
            elif threat.knowledge == "bpda":
                if self.audit.subject.gradients and system.bridgeable:
                    yield threat
            elif threat.knowledge == "adaptive" and white_box:
                yield replace(threat, knowledge=through)
        if white_box or not system.gradients:
            by: Knowledge = through if system.gradients else "black_box"
            yield from (replace(own, knowledge=by) for own in self.audit.attacks)

    def _attack(
        self,
        threat: Threat,
        systems: Sequence[System],
        source: System | None = None,
        first: Planned | None = None,
    ) -> Planned:
        """Return an attack made on a source for all systems, or else through the one system.

        Args:
            threat: What is done.
            systems: Who is scored.
            source: Whose gradients it takes; none where it goes through the system itself.
            first: The stage of clean input, which says what the system answers without attack.
        """
        audit, system = self.audit, systems[0]

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            engine = replace(audit.engine, tick=watcher.advance)
            if source is not None:
                found = engine.on_source(threat, source.model, systems)
            else:
                predictions = None if first is None else self._predictions(first, system)
                found = engine.on_system(self._fitted(threat, system), system, predictions)
            known, bare = found.frame["knowledge"], found.frame["defence"] == UNDEFENDED
            frame = found.frame.assign(
                knowledge=known.mask(bare & (known == "oblivious"), "adaptive")
            )
            records.write(frame, stage.folder / TABLE, provenance=audit.provenance)
            if threat.kept:
                save_file({"inputs": found.inputs.contiguous()}, stage.folder / INPUTS)
            draws = int(frame["draws"].iloc[0])
            return {"measures": found.measures, "draws": draws} | _told(found.answers)

        through = source or system
        # With the identity in its place, a defence without a gradient costs that of the bare model.
        priced = through if through.gradients else audit.systems[0]
        each = audit.speeds[priced.name if threat.gradients else through.name].of_attack(
            threat, len(audit.dataset)
        )
        settings: dict[str, Any] = {
            "threat": repr(threat),
            "source": {through.name: through.fingerprint},
            "code": threat.code,
        }
        if isinstance(threat.attack, Universal):
            settings["fitted on"] = FITTED_ON
            rows = threat.attack.steps * threat.attack.batch_size
            each += rows * audit.speeds[through.name].gradient
        if threat.sweep and threat.attack.in_16_bits:  # which no attack tells of itself
            settings["sixteen_bit"] = True
        who = [] if source else [system.name]
        return self._planned(
            "attack",
            "-".join([threat.knowledge, threat.name, *who]),
            " on ".join([f"{threat.knowledge.replace('_', ' ')} {threat.name}", *who]),
            settings,
            work,
            systems,
            each + (self._asked(systems) if source else 0.0),
            needs=[first] if first else [],
            threat=threat,
        )

    def _fitted(self, threat: Threat, system: System) -> Threat:
        """Return a threat whose attack is fitted on training speakers, where it must be."""
        if not isinstance(threat.attack, Universal):
            return threat
        audit, seed = self.audit, self.audit.settings.seed
        x, y = training_waveforms(audit.subject, audit.settings.selection, FITTED_ON)
        model, _ = audit.engine.faced(threat, system)
        audit.engine.reseed(system, "universal")  # not where an earlier stage left off
        fitted = threat.attack.fit(model, x, y, generator=generator(seed, "universal", system.name))
        return replace(threat, attack=fitted)

    def _probes(self, system: System) -> Planned:
        """Return the checks of one system that need the model itself."""
        audit = self.audit

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = checking.probe(audit, system, watcher.advance)
            return {"findings": [finding.to_json() for finding in found]}

        count = min(audit.suite.effort.probes, len(audit.dataset))
        return self._planned(
            "probes",
            f"checks-{system.name}",
            f"checks of {system.name}",
            {"tier": repr(audit.suite)},
            work,
            [system],
            audit.speeds[system.name].of_checks(audit.suite, count),
            steps=len(MODEL_CHECKS),
        )

    def _to_sound(self, made: Planned) -> Planned:
        """Return the way of attacked log-Mels to sound and back."""
        threat = made.threat
        assert threat is not None
        audit, s = self.audit, self.audit.settings
        systems = [system for system in audit.systems if system.name in made.systems]
        name = made.systems[0] if made.task.needs else "all"

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = gaps(
                systems,
                audit.dataset,
                made.inputs,
                seed=s.seed,
                batch_size=s.batch_size,
                tick=watcher.advance,
            )
            told = {"attack": threat.name}
            return {"gaps": [told | {"knowledge": made.knowledge(r["defence"])} | r for r in found]}

        return self._planned(
            "sound",
            f"sound-{threat.knowledge}-{name}",
            f"to sound and back: {threat.knowledge} {name}",
            {},
            work,
            systems,
            # Beside the way itself, which an estimate measures.
            3 * self._asked(systems),
            steps=len(audit.dataset),
            needs=[made],
            threat=threat,
        )

    def _detector(self, system: System, kept: Sequence[Planned]) -> Iterator[Planned]:
        """Yield what a front that is not random notices of the attacks whose inputs are kept."""
        made = [each for each in kept if system.name in each.systems]
        if made and system.front is not None and system.name not in self.random:
            title = f"what {system.name} notices"
            # Each score asks for the front once and the model twice.
            yield self._look("detector", title, {}, checking.detections, system, made, asked=4)

    def _speech(self, system: System, kept: Sequence[Planned]) -> Iterator[Planned]:
        """Yield what becomes of speech before a front and the model, if it is asked for."""
        made = [each for each in kept if system.name in each.systems]
        count = self.audit.settings.speech
        if count and (system.front is not None or system.name == UNDEFENDED):
            title = f"is it still the same speech: {system.name}"
            told = {"utterances": count, "measures": available()}
            # Beside the listening, which an estimate measures.
            yield self._look("speech", title, told, sounds.changes, system, made, asked=1)

    def _look(
        self,
        kind: Literal["detector", "speech"],
        title: str,
        settings: Mapping[str, Any],
        look: Callable[..., list[dict[str, Any]]],
        system: System,
        made: Sequence[Planned],
        *,
        asked: int,
    ) -> Planned:
        """Return a look at one system on clean input and under attacks whose inputs are kept."""
        key = {"detector": "detection"}.get(kind, kind)

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            inputs = [(each.against(system.name), each.inputs) for each in made]
            return {key: look(self.audit, system, inputs, tick=watcher.advance)}

        inputs = 1 + len(made)
        return self._planned(
            kind,
            f"{kind}-{system.name}",
            title,
            settings,
            work,
            [system],
            asked * inputs * self._asked([system]),
            steps=inputs,
            needs=made,
        )

    def _asked(self, systems: Sequence[System]) -> float:
        """Return the seconds in which systems are asked once about every utterance."""
        each = sum(self.audit.speeds[system.name].forward for system in systems)
        return len(self.audit.dataset) * each

    def _planned(
        self,
        kind: Kind,
        name: str,
        title: str,
        settings: Mapping[str, Any],
        work: Work,
        systems: Sequence[System],
        seconds: float,
        *,
        steps: int | None = None,
        needs: Sequence[Planned] = (),
        threat: Threat | None = None,
    ) -> Planned:
        """Return one stage, under the hash of all that decides its result.

        That is `settings`, the systems, the stages it needs, and what all stages share. It takes
        so many seconds and advances so many times (by default once per batch) at most; `name`
        begins that of its folder.
        """
        audit, s = self.audit, self.audit.settings
        stages = tuple(each.task.stage for each in needs)
        shared = {
            "subject": audit.subject.identity,
            "in every row": asdict(audit.engine.identity)
            | {"corpus": audit.dataset.corpus.name, "gradients": s.gradients},
            "split": audit.dataset.split,
            "recordings": audit.dataset.recordings,
            "seed": s.seed,
            "batch_size": s.batch_size,
            "systems": {system.name: system.fingerprint for system in systems},
            # Clean input decides nothing of an attack but who is worth attacking.
            "made": [e.task.stage.key for e in needs if e.kind != "clean"],
        }
        stage = make_stage(audit.folder, name, title, shared | dict(settings))

        def seeded(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            # Models of a user's own may draw from torch's global generator.
            with global_seed(s.seed, "audit", name), during(title):
                return work(stage, watcher)

        batches = -(-len(audit.dataset) // s.batch_size)
        task = Task(stage, "attack", stages, max(1, steps or batches), seconds, seeded)
        return Planned(task, kind, tuple(system.name for system in systems), threat)

    def _predictions(self, first: Planned, system: System) -> Tensor:
        """Return what a system predicts for the clean utterances, (N,), from the first stage."""
        frame, heard = first.frame, self.audit.dataset
        part = frame[frame["defence"] == system.name].set_index("utterance")["prediction"]
        names = part.loc[list(heard.corpus.utterances["utterance"])]
        return torch.tensor([heard.number(str(name)) for name in names])
