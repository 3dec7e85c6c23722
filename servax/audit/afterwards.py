"""Stages that make something of the attacks: checks, the way to sound and back, detectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from servax.audit import detecting, probing, sounding
from servax.audit.scene import Scene
from servax.audit.tasks import Planned, batches, inputs_of, make_task
from servax.audit.tiers import Catalogue
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.stages import Stage, Watcher


def probes(scene: Scene, catalogue: Catalogue, system: System) -> Planned:
    """Return the checks of one system that need the model itself."""
    count = min(catalogue.effort.probes, len(scene.material))

    def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
        found = probing.probe(
            system,
            scene.material,
            catalogue,
            seed=scene.settings.seed,
            batch_size=scene.settings.batch_size,
            tick=watcher.advance,
        )
        return {"findings": [finding.to_json() for finding in found]}

    settings = {"system": system.fingerprint, "name": system.name, "tier": repr(catalogue)}
    seconds = probing.seconds(scene.speeds[system.name], count, catalogue)
    task = make_task(
        scene,
        f"checks-{system.name}",
        f"checks of {system.name}",
        settings,
        work,
        probing.COUNT,
        seconds,
    )
    return Planned(task, "probes", system.name)


def to_sound(scene: Scene, planned: list[Planned]) -> Iterator[Planned]:
    """Yield the way of attacked log-Mels to sound and back, where there is a front-end."""
    if scene.subject.inputs != "logmel":
        return
    for each in planned:
        if each.threat is None or not each.threat.kept:
            continue
        systems = [system for system in scene.systems if system.name in each.scored]
        yield _realised(scene, each, each.threat, systems)


def _realised(scene: Scene, made: Planned, threat: Threat, systems: list[System]) -> Planned:
    needed = made.task.stage

    def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
        found = sounding.gaps(scene, systems, inputs_of(needed), tick=watcher.advance)
        told = {"attack": threat.name}
        return {
            "gaps": [told | {"knowledge": made.knowledge(row["defence"])} | row for row in found]
        }

    name = f"{threat.knowledge} {made.system or 'all'}"
    settings = {"made": needed.key, "systems": {s.name: s.fingerprint for s in systems}}
    # Beside the way itself, which `servax.audit.overhead` measures.
    seconds = len(scene.material) * sum(3 * scene.speeds[s.name].forward for s in systems)
    kind = f"sound-{threat.knowledge}-{made.system or 'all'}"
    task = make_task(
        scene,
        kind,
        f"to sound and back: {name}",
        settings,
        work,
        len(scene.material),
        seconds,
        (needed,),
    )
    return Planned(task, "sound", made.system, threat, made.scored)


def detectors(scene: Scene, planned: list[Planned]) -> Iterator[Planned]:
    """Yield what each front that is not random notices of the attacks whose inputs are kept."""
    for system in filter(detecting.can_detect, scene.systems):
        made = [
            (each.threat, each.task.stage)
            for each in planned
            if each.threat and each.threat.kept and system.name in each.scored
        ]
        if made:
            yield _detector(scene, system, made)


def _detector(scene: Scene, system: System, made: list[tuple[Threat, Stage]]) -> Planned:

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
    task = make_task(
        scene,
        f"detector-{system.name}",
        f"what {system.name} notices",
        settings,
        work,
        batches(scene, count) + len(made),
        seconds,
        tuple(needed for _, needed in made),
    )
    return Planned(task, "detector", system.name)
