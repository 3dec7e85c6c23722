"""The stages of an audit: each threat against each system, the probing checks, the way to sound.

A stage is kept under the hash of all that decides its result, as in a run of a recipe: an audit
that was killed goes on where it stopped, and one with another defence or attack computes that
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from servax.audit import detecting, probing, sounding
from servax.audit.attacking import (
    Attacked,
    attack_source,
    attack_system,
    clean,
    reseed,
)
from servax.audit.scene import Scene
from servax.audit.speed import FEWEST_DRAWS, MOST_DRAWS
from servax.audit.systems import System
from servax.audit.threats import Knowledge, Threat
from servax.audit.tiers import Catalogue
from servax.defences import Bpda, ExpectationOverDraws, draws_until_flat, is_random
from servax.evaluation import records
from servax.experiments.stages import Stage, Task, Watcher, make_stage
from servax.training import global_seed

TABLE = "records.parquet"
INPUTS = "inputs.safetensors"


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


class Stages:
    """Makes the tasks of an audit.

    Args:
        scene: Systems, utterances, settings.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.catalogue = Catalogue(scene.settings.tier, scene.settings.budget)
        self._draws: dict[tuple[str, str], int] = {}

    def plan(self) -> list[Planned]:
        """Return all tasks, in an order in which each finds what it needs."""
        first = self._clean()
        planned = [first]
        planned += self._on_source(first.task.stage)
        for system in self.scene.systems:
            planned += self._on_system(system, first.task.stage)
        for system in self.scene.systems:
            planned += self._probes(system)
        return [*planned, *self._sound(planned), *self._detectors(planned)]

    def _clean(self) -> Planned:
        scene = self.scene

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            frame = clean(
                scene.systems,
                scene.material,
                scene.identity,
                batch_size=scene.settings.batch_size,
                tick=watcher.advance,
            )
            records.write(frame, stage.folder / TABLE, provenance=provenance(scene))
            return {}

        seconds = sum(scene.speeds[s.name].forward for s in scene.systems) * len(scene.material)
        steps = len(scene.systems) * self._batches(len(scene.material))
        settings = {"systems": {s.name: s.fingerprint for s in scene.systems}}
        return Planned(self._task("clean", "clean input", settings, work, steps, seconds), "clean")

    def _on_source(self, first: Stage) -> Iterator[Planned]:
        """Yield the attacks that are made once, for all systems: oblivious and transfer."""
        scene = self.scene
        known = scene.settings.knowledge
        if "oblivious" in known and scene.defences and scene.subject.gradients:
            for threat in self.catalogue.oblivious():
                yield self._source(threat, scene.systems[0].model, "undefended", scene.defences)
        if "transfer" in known:
            for name, other in scene.surrogates.items():
                for threat in self.catalogue.transfer(name):
                    yield self._source(threat, other.model, name, scene.systems)

    def _source(
        self, threat: Threat, source: nn.Module, name: str, systems: tuple[System, ...]
    ) -> Planned:
        scene = self.scene

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = attack_source(
                threat,
                source,
                systems,
                scene.material,
                scene.identity,
                batch_size=scene.settings.batch_size,
                tick=watcher.advance,
            )
            return self._keep(stage, threat, found)

        fingerprints = {s.name: s.fingerprint for s in systems}
        if name in scene.surrogates:
            fingerprints[f"surrogate {name}"] = scene.surrogates[name].fingerprint
        count = len(scene.material)
        seconds = scene.speeds[name].seconds(threat, count)
        seconds += count * sum(scene.speeds[s.name].forward for s in systems)
        title = f"{threat.knowledge} {threat.name}"
        settings = {"threat": repr(threat), "systems": fingerprints, "source": name}
        kind = f"{threat.knowledge}-{threat.name}"
        task = self._task(kind, title, settings, work, self._batches(count), seconds)
        return Planned(task, "attack", "", threat)

    def _on_system(self, system: System, first: Stage) -> Iterator[Planned]:
        """Yield the attacks on one system: by its answers, by BPDA, by its gradients."""
        known = self.scene.settings.knowledge
        threats = self.catalogue.noise()
        if "black_box" in known:
            threats += self.catalogue.black_box()
        if system.gradients:
            if system.front is not None and "bpda" in known and system.exact:
                threats += self.catalogue.bpda()
            # Where a transform has no gradient the identity stands in for it: no exact attack.
            through: Knowledge = "adaptive" if system.exact else "bpda"
            if through in known or "adaptive" in known:
                threats += self.catalogue.adaptive(through)
                threats += sounding.threats(self.scene, through)
        for threat in threats:
            yield self._against(threat, system, first)

    def _against(self, threat: Threat, system: System, first: Stage) -> Planned:
        scene = self.scene

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            predictions = predictions_of(first, scene, system)
            right = torch.nonzero(predictions == scene.material.y).squeeze(1)
            faced, draws = self._faced(threat, system)
            if threat.waveform:
                found = sounding.attack(
                    threat, system, faced, right, predictions, scene, tick=watcher.advance
                )
            else:
                found = attack_system(
                    threat,
                    system,
                    faced,
                    right,
                    predictions,
                    scene.material,
                    scene.identity,
                    batch_size=scene.settings.batch_size,
                    tick=watcher.advance,
                )
            return self._keep(stage, threat, found) | {"draws": draws}

        count = len(scene.material)
        title = f"{threat.knowledge.replace('_', ' ')} {threat.name} on {system.name}"
        settings = {"threat": repr(threat), "system": system.fingerprint, "name": system.name}
        kind = f"{threat.knowledge}-{threat.name}-{system.name}"
        seconds = scene.speeds[system.name].seconds(threat, count)
        task = self._task(kind, title, settings, work, self._batches(count), seconds, (first,))
        return Planned(task, "attack", system.name, threat)

    def _faced(self, threat: Threat, system: System) -> tuple[nn.Module, int]:
        """Return what the attacker differentiates or asks, and over how many draws."""
        model = system.model
        if threat.knowledge == "bpda" and system.exact and system.front is not None:
            model = Bpda(self.scene.subject.model, system.front).eval()
        if threat.knowledge == "black_box":
            return model, 1
        key = (system.name, threat.knowledge)
        if key not in self._draws:
            x, y = (part[:8] for part in (self.scene.material.x, self.scene.material.y))
            # Not where an earlier stage left off: each decides its numbers alone.
            reseed(system, self.scene.settings.seed, "draws")
            random = is_random(model, x)
            flat = draws_until_flat(model, x, y, most=MOST_DRAWS) if random else 0
            self._draws[key] = max(FEWEST_DRAWS, flat) if random else 0
        draws = self._draws[key]
        return (ExpectationOverDraws(model, draws).eval(), draws) if draws else (model, 1)

    def _probes(self, system: System) -> Iterator[Planned]:
        scene = self.scene
        count = min(self.catalogue.effort.probes, len(scene.material))

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = probing.probe(
                scene.subject,
                system,
                scene.material,
                self.catalogue,
                seed=scene.settings.seed,
                tick=watcher.advance,
            )
            return {"findings": [finding.to_json() for finding in found]}

        settings = {"system": system.fingerprint, "name": system.name, "tier": repr(self.catalogue)}
        seconds = probing.seconds(scene.speeds[system.name], count, self.catalogue)
        task = self._task(
            f"checks-{system.name}",
            f"checks of {system.name}",
            settings,
            work,
            probing.COUNT,
            seconds,
        )
        yield Planned(task, "probes", system.name)

    def _sound(self, planned: list[Planned]) -> Iterator[Planned]:
        """Yield the way of attacked log-Mels to sound and back, where there is a front-end."""
        if self.scene.subject.inputs != "logmel":
            return
        for each in planned:
            if each.threat is None or not each.threat.kept:
                continue
            systems = [s for s in self.scene.systems if each.system in ("", s.name)]
            if each.system == "":
                systems = list(self.scene.defences)
            yield self._realised(each, each.threat, systems)

    def _realised(self, made: Planned, threat: Threat, systems: list[System]) -> Planned:
        scene, needed = self.scene, made.task.stage

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            found = sounding.gaps(scene, systems, inputs_of(needed), tick=watcher.advance)
            told = {"attack": threat.name, "knowledge": threat.knowledge}
            return {"gaps": [told | row for row in found]}

        name = f"{threat.knowledge} {made.system or 'all defences'}"
        settings = {"made": needed.key, "systems": {s.name: s.fingerprint for s in systems}}
        seconds = len(scene.material) * sum(
            0.05 + 2 * scene.speeds[system.name].forward for system in systems
        )
        kind = f"sound-{threat.knowledge}-{made.system or 'all'}"
        task = self._task(
            kind,
            f"to sound and back: {name}",
            settings,
            work,
            len(scene.material),
            seconds,
            (needed,),
        )
        return Planned(task, "sound", made.system, threat)

    def _detectors(self, planned: list[Planned]) -> Iterator[Planned]:
        """Yield what each front that is not random notices of the attacks whose inputs are kept."""
        for system in filter(detecting.can_detect, self.scene.systems):
            made = [
                (each.threat, each.task.stage)
                for each in planned
                if each.threat and each.threat.kept and each.system in ("", system.name)
            ]
            if made:
                yield self._detector(system, made)

    def _detector(self, system: System, made: list[tuple[Threat, Stage]]) -> Planned:
        scene = self.scene

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            inputs = [(threat, inputs_of(needed)) for threat, needed in made]
            found = detecting.detections(scene, system, inputs, tick=watcher.advance)
            return {"detection": found}

        count = len(scene.material)
        # Each score asks for the front once and the model twice.
        seconds = 4 * count * (1 + len(made)) * scene.speeds[system.name].forward
        settings = {
            "made": [needed.key for _, needed in made],
            "system": system.fingerprint,
            "name": system.name,
        }
        task = self._task(
            f"detector-{system.name}",
            f"what {system.name} notices",
            settings,
            work,
            self._batches(count) + len(made),
            seconds,
            tuple(needed for _, needed in made),
        )
        return Planned(task, "detector", system.name)

    def _keep(self, stage: Stage, threat: Threat, found: Attacked) -> dict[str, Any]:
        records.write(found.frame, stage.folder / TABLE, provenance=provenance(self.scene))
        if threat.kept:
            save_file({"inputs": found.inputs.contiguous()}, stage.folder / INPUTS)
        return {"measures": found.measures}

    def _task(
        self,
        kind: str,
        title: str,
        settings: Mapping[str, Any],
        work: Callable[[Stage, Watcher], Mapping[str, Any]],
        steps: int,
        seconds: float,
        needs: tuple[Stage, ...] = (),
    ) -> Task:
        scene = self.scene
        shared = {
            "subject": scene.subject.identity,
            "in every row": asdict(scene.identity) | {"corpus": scene.material.corpus.name},
            "split": scene.material.split,
            "recordings": scene.material.recordings,
            "seed": scene.settings.seed,
            "batch_size": scene.settings.batch_size,
        }
        stage = make_stage(scene.folder, kind, title, shared | dict(settings))

        def seeded(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            # Models of a user's own may draw from torch's global generator.
            with global_seed(scene.settings.seed, "audit", kind):
                return work(stage, watcher)

        return Task(stage, "attack", needs, max(1, steps), seconds, seeded)

    def _batches(self, count: int) -> int:
        return -(-count // self.scene.settings.batch_size)


def predictions_of(first: Stage, scene: Scene, system: System) -> Tensor:
    """Return what a system predicts for the clean utterances, (N,), from the first stage."""
    frame = records.read(first.folder / TABLE).frame
    part = frame[frame["defence"] == system.name].set_index("utterance")["prediction"]
    number = {name: index for index, name in enumerate(scene.material.names)}
    names = part.loc[list(scene.material.corpus.utterances["utterance"])]
    return torch.tensor([number[str(name)] for name in names])


def inputs_of(stage: Stage) -> Tensor:
    """Return the inputs that an attack left behind, (N, ...)."""
    return load_file(stage.folder / INPUTS)["inputs"]


def provenance(scene: Scene) -> dict[str, Any]:
    """Return the provenance of one table."""
    return dict(scene.origin) | {
        "corpus": scene.material.corpus.name,
        "scheme": scene.material.corpus.scheme,
        "classes": list(scene.material.corpus.labels),
        "fold_hash": scene.material.split,
        "audit": scene.settings.to_json(),
    }
