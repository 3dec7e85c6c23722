"""What a stage of an audit is, and what it leaves in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from servax.audit.attacking import Attacked
from servax.audit.scene import Scene
from servax.evaluation import records
from servax.evaluation.protocol import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.stages import Stage, Task, Watcher, make_stage
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
    scored: tuple[str, ...] = ()
    """Names of the systems that the threat was tried on."""

    def knowledge(self, system: str) -> str:
        """Return what the attacker of a system knows, or "none" for one that was not attacked.

        Nothing stands before the bare model: an oblivious attack is one by who knows it.
        """
        known = self.threat.knowledge if self.threat and system in self.scored else "none"
        return "adaptive" if known == "oblivious" and system == UNDEFENDED else known


def make_task(
    scene: Scene,
    kind: str,
    title: str,
    settings: Mapping[str, Any],
    work: Callable[[Stage, Watcher], Mapping[str, Any]],
    steps: int,
    seconds: float,
    needs: tuple[Stage, ...] = (),
) -> Task:
    """Return the task of one stage, under the hash of all that decides its result.

    Args:
        scene: What all stages share.
        kind: Begins the name of its folder.
        title: For people.
        settings: What decides its result, beside what all stages share.
        work: Does it, and returns its result.
        steps: How often it advances at most.
        seconds: How long it takes at most.
        needs: Stages whose results it reads.
    """
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


def batches(scene: Scene, count: int) -> int:
    """Return how many batches so many utterances are."""
    return -(-count // scene.settings.batch_size)


def keep(scene: Scene, stage: Stage, threat: Threat, found: Attacked) -> dict[str, Any]:
    """Write down what a threat came to, and return the part that is read often."""
    records.write(found.frame, stage.folder / TABLE, provenance=provenance(scene))
    if threat.kept:
        save_file({"inputs": found.inputs.contiguous()}, stage.folder / INPUTS)
    return {"measures": found.measures}


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
