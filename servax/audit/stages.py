"""The stages of an audit: each threat against each system, then what is made of the results.

A stage is kept under the hash of all that decides its result, as in a run of a recipe: an audit
that was killed goes on where it stopped, and one with another defence or attack computes that
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from servax.audit import sounding
from servax.audit.afterwards import detectors, probes, to_sound
from servax.audit.attacking import attack_source, attack_system, clean, reseed
from servax.audit.scene import Scene
from servax.audit.speed import over_draws
from servax.audit.tasks import (
    TABLE,
    Planned,
    batches,
    keep,
    make_task,
    predictions_of,
    provenance,
)
from servax.audit.tiers import Catalogue
from servax.defences import Bpda, ExpectationOverDraws
from servax.evaluation import records
from servax.evaluation.protocol import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Knowledge, Threat
from servax.evaluation.trial import repeats
from servax.stages import Stage, Watcher


class Stages:
    """Makes the tasks of an audit.

    Args:
        scene: Systems, utterances, settings.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.catalogue = Catalogue(scene.settings.tier, scene.settings.budget)
        self._facing: dict[tuple[str, str], tuple[nn.Module, int]] = {}

    @property
    def _few(self) -> int:
        """How many utterances tell whether a system is random."""
        return min(8, self.scene.settings.batch_size)

    def plan(self) -> list[Planned]:
        """Return all tasks, in an order in which each finds what it needs."""
        first = self._clean()
        sources = list(self._on_source())
        planned = [first, *sources]
        for system in self.scene.systems:
            known = [each for each in sources if each.knowledge(system.name) == "adaptive"]
            made = [each.threat for each in known if each.threat]
            planned += self._on_system(system, first.task.stage, made)
        for system in self.scene.systems:
            planned.append(probes(self.scene, self.catalogue, system))
        return [*planned, *to_sound(self.scene, planned), *detectors(self.scene, planned)]

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
        steps = len(scene.systems) * batches(scene, len(scene.material))
        settings = {"systems": {s.name: s.fingerprint for s in scene.systems}}
        return Planned(
            make_task(scene, "clean", "clean input", settings, work, steps, seconds), "clean"
        )

    def _on_source(self) -> Iterator[Planned]:
        """Yield the attacks that are made once, for all systems: oblivious and transfer."""
        scene = self.scene
        known = scene.settings.knowledge
        if "oblivious" in known and scene.defences and scene.subject.gradients:
            for threat in self.catalogue.oblivious():
                systems = scene.systems if self._one_for_both(threat) else scene.defences
                yield self._source(threat, scene.systems[0].model, UNDEFENDED, systems)
        if "transfer" in known:
            for name, other in scene.surrogates.items():
                for threat in self.catalogue.transfer(name):
                    yield self._source(threat, other.model, name, scene.systems)

    def _one_for_both(self, threat: Threat) -> bool:
        """Tell whether an oblivious attack is also one on the bare model by who knows it."""
        alike = [each for each in self.catalogue.adaptive() if _same(each, threat)]
        wanted = "adaptive" in self.scene.settings.knowledge and alike
        # Behind a random model the attacker who knows it averages over draws, the other does not.
        bare = self.scene.systems[0]
        return bool(wanted) and bare.exact and self._faced(alike[0], bare)[1] == 1

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
                gradients=scene.settings.gradients,
            )
            return keep(scene, stage, threat, found)

        fingerprints = {s.name: s.fingerprint for s in systems}
        if name in scene.surrogates:
            fingerprints[f"surrogate {name}"] = scene.surrogates[name].fingerprint
        count = len(scene.material)
        seconds = scene.speeds[name].seconds(threat, count)
        seconds += count * sum(scene.speeds[s.name].forward for s in systems)
        title = f"{threat.knowledge} {threat.name}"
        settings = {"threat": repr(threat), "systems": fingerprints, "source": name}
        kind = f"{threat.knowledge}-{threat.name}"
        task = make_task(scene, kind, title, settings, work, batches(scene, count), seconds)
        return Planned(task, "attack", "", threat, tuple(s.name for s in systems))

    def _on_system(self, system: System, first: Stage, made: Sequence[Threat]) -> Iterator[Planned]:
        """Yield the attacks on one system: by its answers, by BPDA, by its gradients.

        Args:
            system: Which system.
            first: The stage of clean input.
            made: Attacks by who knows the system that are planned already.
        """
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
                random = repeats(system.model, self.scene.material.x[: self._few]).random
                threats += self.catalogue.adaptive(through, random=random)
                threats += self.catalogue.towards(self.scene.material.corpus.labels, through)
                threats += sounding.threats(self.scene, through)
                threats += [self.catalogue.own(each, through) for each in self.scene.attacks]
        else:
            threats += [self.catalogue.own(each, "black_box") for each in self.scene.attacks]
        for threat in threats:
            if threat.knowledge != "adaptive" or not any(_same(threat, each) for each in made):
                yield self._against(threat, system, first)

    def _against(self, threat: Threat, system: System, first: Stage) -> Planned:
        scene = self.scene

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            predictions = predictions_of(first, scene, system)
            right = torch.nonzero(predictions == scene.material.y).squeeze(1)
            if threat.towards:  # what is of the wanted class already leads nowhere
                right = right[scene.material.y[right] != scene.material.number(threat.towards)]
            faced, draws = self._faced(threat, system)
            if threat.waveform:
                found = sounding.attack(
                    threat,
                    system,
                    faced,
                    right,
                    predictions,
                    scene,
                    draws=draws,
                    tick=watcher.advance,
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
                    gradients=scene.settings.gradients,
                    draws=draws,
                )
            return keep(scene, stage, threat, found) | {"draws": draws}

        count = len(scene.material)
        title = f"{threat.knowledge.replace('_', ' ')} {threat.name} on {system.name}"
        settings = {"threat": repr(threat), "system": system.fingerprint, "name": system.name}
        if threat.code:
            settings["code"] = threat.code
        kind = f"{threat.knowledge}-{threat.name}-{system.name}"
        seconds = scene.speeds[system.name].seconds(threat, count)
        task = make_task(
            scene, kind, title, settings, work, batches(scene, count), seconds, (first,)
        )
        return Planned(task, "attack", system.name, threat, (system.name,))

    def _faced(self, threat: Threat, system: System) -> tuple[nn.Module, int]:
        """Return what the attacker differentiates or asks, and over how many draws."""
        model = system.model
        if threat.knowledge == "bpda" and system.exact and system.front is not None:
            model = Bpda(self.scene.subject.model, system.front).eval()
        if threat.knowledge == "black_box":
            return model, 1
        if threat.draws:
            return ExpectationOverDraws(model, threat.draws).eval(), threat.draws
        key = (system.name, threat.knowledge)
        if key not in self._facing:
            x, y = (part[: self._few] for part in (self.scene.material.x, self.scene.material.y))
            # Not where an earlier stage left off: each decides its numbers alone.
            reseed(system, self.scene.settings.seed, "draws")
            self._facing[key] = over_draws(model, x, y) if repeats(model, x).random else (model, 1)
        return self._facing[key]


def _same(one: Threat, other: Threat) -> bool:
    """Tell whether two threats are one attack, whatever the attackers know."""
    return (one.name, one.attack, one.sweep) == (other.name, other.attack, other.sweep)
