"""What an audit attacks: threats against systems, as stages, and what follows.

A stage is kept under the hash of all that decides its result, as in a run of a recipe: an audit
that was killed goes on where it stopped, and one with another defence or attack computes that
alone. After the attacks come the checks that need a model, the way of attacked log-Mels to sound
and back, and what the fronts notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from servax.attacks import RandomNoise
from servax.audit import checking, detecting
from servax.audit.settings import Audit
from servax.evaluation import records
from servax.evaluation.checks import MODEL_CHECKS
from servax.evaluation.engine import Attacked, AttackEngine
from servax.evaluation.realisability import gaps
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Knowledge, Threat
from servax.stages import Stage, Task, Watcher, make_stage
from servax.training import global_seed

TABLE = "records.parquet"
INPUTS = "inputs.safetensors"
Work = Callable[[Stage, Watcher], Mapping[str, Any]]


@dataclass(frozen=True)
class Planned:
    """A task of an audit and what it is about."""

    task: Task
    kind: str
    """`clean`, `attack`, `probes`, `sound` or `detector`."""
    system: str = ""
    """Which system; empty for all of them."""
    threat: Threat | None = None
    """Which threat."""
    scored: tuple[str, ...] = ()
    """Names of the systems that the threat was tried on."""

    def knowledge(self, system: str) -> str:
        """Return what the attacker of a system knows, or "none" for one that was not attacked.

        Nothing stands before the bare model: an oblivious attack is one by who knows it.
        """
        known = self.threat.knowledge if self.threat and system in self.scored else "none"
        return "adaptive" if known == "oblivious" and system == UNDEFENDED else known


def plan(audit: Audit) -> list[Planned]:
    """Return all stages of an audit, in an order in which each finds what it needs."""
    return _Plan(audit).all()


def inputs_of(stage: Stage) -> Tensor:
    """Return the inputs that an attack left behind, (N, ...)."""
    return load_file(stage.folder / INPUTS)["inputs"]


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

    def all(self) -> list[Planned]:
        """Return the stages."""
        systems = self.audit.systems
        first, sources = self._clean(), list(self._on_sources())
        planned = [first, *sources]
        for system in systems:
            known = [each for each in sources if each.knowledge(system.name) == "adaptive"]
            made = [each.threat for each in known if each.threat]
            planned += self._on_system(system, first.task.stage, made)
        planned += [self._probes(system) for system in systems]
        if self.audit.subject.inputs == "logmel":
            planned += [
                self._to_sound(each) for each in planned if each.threat and each.threat.kept
            ]
        return [*planned, *self._detectors(planned)]

    def _clean(self) -> Planned:
        audit = self.audit

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            frame = self._engine(watcher).clean(audit.systems)
            records.write(frame, stage.folder / TABLE, provenance=audit.provenance)
            return {}

        settings = {"systems": {s.name: s.fingerprint for s in audit.systems}}
        task = self._task(
            "clean", "clean input", settings, work, seconds=self._asked(audit.systems)
        )
        return Planned(task, "clean")

    def _on_sources(self) -> Iterator[Planned]:
        """Yield the attacks that are made once, for all systems: oblivious and transfer."""
        audit = self.audit
        for threat in self.threats:
            if threat.knowledge == "oblivious" and audit.defences and audit.subject.gradients:
                systems = audit.systems if self._one_for_both(threat) else audit.defences
                yield self._source(threat, audit.systems[0].model, UNDEFENDED, systems)
            elif threat.knowledge == "transfer":
                source = audit.surrogates[threat.surrogate]
                yield self._source(threat, source.model, source.name, audit.systems)

    def _one_for_both(self, threat: Threat) -> bool:
        """Tell whether an oblivious attack is also one on the bare model by who knows it."""
        adaptive = [each for each in self.threats if each.knowledge == "adaptive"]
        alike = [each for each in adaptive if each.same_attack(threat)]
        bare = self.audit.systems[0]
        if "adaptive" not in self.known or not alike or not bare.exact:
            return False
        # Behind a random model the attacker who knows it averages over draws, the other does not.
        return self.audit.engine.faced(alike[0], bare)[1] == 1

    def _source(
        self, threat: Threat, source: nn.Module, name: str, systems: Sequence[System]
    ) -> Planned:
        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = self._engine(watcher).on_source(threat, source, systems)
            if threat.knowledge == "oblivious":
                known = found.frame["knowledge"].mask(
                    found.frame["defence"] == UNDEFENDED, "adaptive"
                )
                found = replace(found, frame=found.frame.assign(knowledge=known))
            return self._keep(stage, threat, found)

        fingerprints = {s.name: s.fingerprint for s in systems}
        if name in self.audit.surrogates:
            fingerprints[f"surrogate {name}"] = self.audit.surrogates[name].fingerprint
        task = self._task(
            f"{threat.knowledge}-{threat.name}",
            f"{threat.knowledge} {threat.name}",
            {"threat": repr(threat), "systems": fingerprints, "source": name},
            work,
            seconds=self._attacked(threat, name) + self._asked(systems),
        )
        return Planned(task, "attack", "", threat, tuple(s.name for s in systems))

    def _on_system(self, system: System, first: Stage, made: Sequence[Threat]) -> Iterator[Planned]:
        """Yield the attacks on one system: by its answers, by BPDA, by its gradients.

        Args:
            system: Which system.
            first: The stage of clean input.
            made: Attacks by who knows the system that are planned already.
        """
        for threat in self._against(system):
            if threat.knowledge != "adaptive" or not any(map(threat.same_attack, made)):
                yield self._attack(threat, system, first)

    def _against(self, system: System) -> Iterator[Threat]:
        """Yield the threats that go through one system."""
        through: Knowledge = "adaptive" if system.exact else "bpda"
        white_box = system.gradients and bool({through, "adaptive"} & self.known)
        for threat in self.threats:
            if threat.knowledge == "black_box":
                if "black_box" in self.known or isinstance(threat.attack, RandomNoise):
                    yield threat
            elif threat.knowledge == "bpda":
                if system.gradients and system.exact and system.front is not None:
                    yield threat
            elif threat.knowledge == "adaptive" and white_box:
                if threat.if_random is not None and self.audit.engine.random(system):
                    threat = threat.if_random
                yield replace(threat, knowledge=through)
        if white_box or not system.gradients:
            by: Knowledge = through if system.gradients else "black_box"
            yield from (own.threat(by) for own in self.audit.attacks)

    def _attack(self, threat: Threat, system: System, first: Stage) -> Planned:
        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            predictions = self._predictions(first, system)
            found = self._engine(watcher).on_system(threat, system, predictions)
            draws = int(found.frame["draws"].iloc[0])
            return self._keep(stage, threat, found) | {"draws": draws}

        settings = {"threat": repr(threat), "system": system.fingerprint, "name": system.name}
        task = self._task(
            f"{threat.knowledge}-{threat.name}-{system.name}",
            f"{threat.knowledge.replace('_', ' ')} {threat.name} on {system.name}",
            settings | ({"code": threat.code} if threat.code else {}),
            work,
            seconds=self._attacked(threat, system.name),
            needs=(first,),
        )
        return Planned(task, "attack", system.name, threat, (system.name,))

    def _probes(self, system: System) -> Planned:
        """Return the checks of one system that need the model itself."""
        audit = self.audit
        count = min(audit.suite.effort.probes, len(audit.dataset))

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = checking.probe(
                system,
                audit.dataset,
                audit.suite,
                seed=audit.settings.seed,
                batch_size=audit.settings.batch_size,
                tick=watcher.advance,
            )
            return {"findings": [finding.to_json() for finding in found]}

        task = self._task(
            f"checks-{system.name}",
            f"checks of {system.name}",
            {"system": system.fingerprint, "name": system.name, "tier": repr(audit.suite)},
            work,
            steps=len(MODEL_CHECKS),
            seconds=checking.seconds(audit.speeds[system.name], count, audit.suite),
        )
        return Planned(task, "probes", system.name)

    def _to_sound(self, made: Planned) -> Planned:
        """Return the way of attacked log-Mels to sound and back."""
        needed, threat = made.task.stage, made.threat
        assert threat is not None
        systems = [system for system in self.audit.systems if system.name in made.scored]

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            s, made_there = self.audit.settings, inputs_of(needed)
            found = gaps(
                systems,
                self.audit.dataset,
                made_there,
                seed=s.seed,
                batch_size=s.batch_size,
                tick=watcher.advance,
            )
            told = {"attack": threat.name}
            return {"gaps": [told | {"knowledge": made.knowledge(r["defence"])} | r for r in found]}

        task = self._task(
            f"sound-{threat.knowledge}-{made.system or 'all'}",
            f"to sound and back: {threat.knowledge} {made.system or 'all'}",
            {"made": needed.key, "systems": {s.name: s.fingerprint for s in systems}},
            work,
            steps=len(self.audit.dataset),
            # Beside the way itself, which an estimate measures.
            seconds=3 * self._asked(systems),
            needs=(needed,),
        )
        return Planned(task, "sound", made.system, threat, made.scored)

    def _detectors(self, planned: Sequence[Planned]) -> Iterator[Planned]:
        """Yield what each front that is not random notices of the attacks whose inputs are kept."""
        kept = [e for e in planned if e.kind == "attack" and e.threat and e.threat.kept]
        for system in self.audit.systems:
            made = [(e.threat, e.task.stage) for e in kept if e.threat and system.name in e.scored]
            if made and system.front is not None and not self.audit.engine.random(system):
                yield self._detector(system, made)

    def _detector(self, system: System, made: Sequence[tuple[Threat, Stage]]) -> Planned:
        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            inputs = [(threat, inputs_of(needed)) for threat, needed in made]
            found = detecting.detections(self.audit, system, inputs, tick=watcher.advance)
            return {"detection": found}

        keys = [needed.key for _, needed in made]
        task = self._task(
            f"detector-{system.name}",
            f"what {system.name} notices",
            {"made": keys, "system": system.fingerprint, "name": system.name},
            work,
            steps=1 + len(made),
            # Each score asks for the front once and the model twice.
            seconds=4 * (1 + len(made)) * self._asked([system]),
            needs=tuple(needed for _, needed in made),
        )
        return Planned(task, "detector", system.name)

    @property
    def _batches(self) -> int:
        return -(-len(self.audit.dataset) // self.audit.settings.batch_size)

    def _engine(self, watcher: Watcher) -> AttackEngine:
        return replace(self.audit.engine, tick=watcher.advance)

    def _asked(self, systems: Sequence[System]) -> float:
        """Return the seconds in which systems are asked once about every utterance."""
        each = sum(self.audit.speeds[system.name].forward for system in systems)
        return len(self.audit.dataset) * each

    def _attacked(self, threat: Threat, name: str) -> float:
        """Return the seconds that a threat takes at most."""
        return self.audit.speeds[name].seconds(threat, len(self.audit.dataset))

    def _task(
        self,
        kind: str,
        title: str,
        settings: Mapping[str, Any],
        work: Work,
        *,
        seconds: float,
        steps: int | None = None,
        needs: tuple[Stage, ...] = (),
    ) -> Task:
        """Return the task of one stage, under the hash of all that decides its result.

        Args:
            kind: Begins the name of its folder.
            title: For people.
            settings: What decides its result, beside what all stages share.
            work: Does it, and returns its result.
            seconds: How long it takes at most.
            steps: How often it advances at most, by default once per batch.
            needs: Stages whose results it reads.
        """
        audit, s = self.audit, self.audit.settings
        shared = {
            "subject": audit.subject.identity,
            "in every row": asdict(audit.engine.identity)
            | {"corpus": audit.dataset.corpus.name, "gradients": s.gradients},
            "split": audit.dataset.split,
            "recordings": audit.dataset.recordings,
            "seed": s.seed,
            "batch_size": s.batch_size,
        }
        stage = make_stage(audit.folder, kind, title, shared | dict(settings))

        def seeded(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            # Models of a user's own may draw from torch's global generator.
            with global_seed(s.seed, "audit", kind):
                return work(stage, watcher)

        return Task(stage, "attack", needs, max(1, steps or self._batches), seconds, seeded)

    def _keep(self, stage: Stage, threat: Threat, found: Attacked) -> dict[str, Any]:
        """Write down what a threat came to, and return the part that is read often."""
        records.write(found.frame, stage.folder / TABLE, provenance=self.audit.provenance)
        if threat.kept:
            save_file({"inputs": found.inputs.contiguous()}, stage.folder / INPUTS)
        return {"measures": found.measures}

    def _predictions(self, first: Stage, system: System) -> Tensor:
        """Return what a system predicts for the clean utterances, (N,), from the first stage."""
        frame, heard = records.read(first.folder / TABLE).frame, self.audit.dataset
        part = frame[frame["defence"] == system.name].set_index("utterance")["prediction"]
        names = part.loc[list(heard.corpus.utterances["utterance"])]
        return torch.tensor([heard.number(str(name)) for name in names])
