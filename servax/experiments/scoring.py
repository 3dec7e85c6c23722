"""The attacks of one fold and seed: each a stage that leaves a table of records.

The oblivious attacks are one stage each for all defences, since all are scored on the same inputs;
the adaptive attacks are one stage each for every defence. So a change of one attack computes that
attack again and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from servax.defences import GaussianNoise, MeanFilter, Quantise
from servax.evaluation import records
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import AttackEngine, Identity, as_adaptive
from servax.evaluation.records import UNDEFENDED, Records
from servax.evaluation.suites import AttackGrid
from servax.evaluation.systems import System, before
from servax.evaluation.threats import Threat
from servax.experiments.example import choose_example
from servax.experiments.fold import COST_GRADIENT, FoldTraining
from servax.models import frozen
from servax.purifier import Purifier
from servax.recognition import MODEL, Recogniser
from servax.stages import Stage, Task, Watcher
from servax.training import generator

TABLE = "records.parquet"
EXAMPLE = "example.npz"
# Of one scoring of one defence, against a training step of the recogniser.
COST_SCORING = 0.25


class FoldScoring:
    """The attacks of one fold and seed, as tasks.

    Args:
        training: The trainings they attack.
        origin: Provenance that settings do not decide: code, command, machine.
    """

    def __init__(self, training: FoldTraining, origin: Mapping[str, Any]) -> None:
        self.t, self.origin = training, origin
        self.recipe = training.recipe
        self.grid: AttackGrid = self.recipe.attacks
        self.identity = Identity(
            target=f"{self.recipe.network}-w{self.recipe.width}",
            fold=training.index + 1,
            seed=training.seed,
        )
        threats: dict[str, Threat | None] = {"none": None}
        threats |= {threat.name: threat for threat in self.grid.oblivious()}
        self.oblivious = {name: self._oblivious(name, threat) for name, threat in threats.items()}
        self.adaptive = [
            self._adaptive(threat, name)
            for name in self.recipe.defences
            for threat in self.grid.adaptive()
        ]

    @property
    def tasks(self) -> list[Task]:
        """All attacks, oblivious ones first."""
        return [*self.oblivious.values(), *self.adaptive]

    def records(self) -> Records:
        """Return the tables of all attacks as one, with what made each."""
        tables = {attack: self._table(task) for attack, task in self.oblivious.items()}
        # Nothing stands before the bare target: its oblivious attack is its adaptive one.
        known = [
            Records(as_adaptive(tables[threat.name].frame, threat), tables[threat.name].provenance)
            for threat in self.grid.adaptive()
        ]
        pgd = tables["pgd"]
        within = pgd.frame[pgd.frame["strength"] <= self.grid.steps]
        rest = [self._table(task) for task in self.adaptive]
        first = [tables["none"], tables["fgsm"], Records(within, pgd.provenance)]
        return records.concat([*first, *known, *rest])

    def _table(self, task: Task) -> Records:
        # The table of a stage does not carry the settings; one of version 1 is completed by them.
        return records.read(task.stage.folder / TABLE, attacks=self.grid.told())

    def example(self) -> Task:
        """Return the stage that draws the spectrograms of one utterance before and after."""
        target, clean, pgd = self.t.target.stage, self.oblivious["none"], self.oblivious["pgd"]
        first = next(iter(self.t.purifiers))
        purifier = self.t.purifiers[first].stage
        stage = self.t.stage(
            "example", {"records": [clean.stage.key, pgd.stage.key], "purifier": purifier.key}
        )

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            tables = [records.read(task.stage.folder / TABLE) for task in (clean, pgd)]
            example = choose_example(
                records.concat(tables).frame,
                self._target(),
                Purifier.from_pretrained(purifier.folder / MODEL).frozen(),
                self.t.parts.test,
                self.grid,
                defence=first,
                hop_seconds=self.recipe.front_end.logmel.hop_seconds,
            )
            example.save(stage.folder / EXAMPLE)
            watcher.advance()
            return {"title": example.title}

        needs = (target, purifier, clean.stage, pgd.stage)
        return Task(stage, "attack", needs, 1, self.grid.steps * COST_GRADIENT, work)

    def _engine(self, watcher: Watcher) -> AttackEngine:
        return AttackEngine(
            dataset=EvaluationSet.of(self.t.parts.test),
            identity=self.identity,
            batch_size=self.recipe.batch_size,
            compute=self.recipe.compute,
            gradients=self.grid.gradients,
            tick=watcher.advance,
        )

    def _oblivious(self, attack: str, threat: Threat | None) -> Task:
        names = self.recipe.defences
        settings = {
            "target": self.t.target.stage.key,
            "defences": {name: self._identity(name) for name in names},
            "attack": self._settings(attack, self.grid.steps, self.grid.longest),
            "batch_size": self.recipe.batch_size,
            "seed": self.t.seed,
        }
        stage = self.t.stage({"none": "clean"}.get(attack, attack), settings)

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            engine, target = self._engine(watcher), self._target()
            defences = [self._system(name, target, attack) for name in names]
            systems = [System(name=UNDEFENDED, model=target), *defences]
            if threat is None:
                frame = engine.clean(systems)
            else:
                frame = engine.on_source(threat, target, systems).frame
            return self._keep(stage, frame)

        needs = (self.t.target.stage, *(s for name in names for s in self._needs(name)))
        count, size = len(self.t.parts.test), self.recipe.batch_size
        steps = threat.ticks(count, size) if threat else -(-count // size)
        each = COST_SCORING * (1 + len(names))
        points = {"none": 1, "fgsm": len(self.grid.epsilons), "pgd": 1}[attack]
        cost = steps * (points * each + (COST_GRADIENT if attack != "none" else 0.0))
        return Task(stage, "attack", needs, steps, cost, work)

    def _adaptive(self, threat: Threat, name: str) -> Task:
        attack = threat.name
        settings = {
            "target": self.t.target.stage.key,
            "defence": self._identity(name),
            "attack": self._settings(attack, self.grid.adaptive_steps),
            "batch_size": self.recipe.batch_size,
            "seed": self.t.seed,
        }
        stage = self.t.stage(f"adaptive-{attack}-{name}", settings)

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            system = self._system(name, self._target(), f"adaptive-{attack}")
            through = threat if system.exact else replace(threat, knowledge="bpda")
            frame = self._engine(watcher).on_system(through, system).frame
            return self._keep(stage, frame)

        needs = (self.t.target.stage, *self._needs(name))
        steps = threat.ticks(len(self.t.parts.test), self.recipe.batch_size)
        # A purifier's gradient is three times the recogniser's, which it passes through too.
        weight = 4.0 if name in self.t.purifiers else 1.0
        return Task(stage, "attack", needs, steps, steps * COST_GRADIENT * weight, work)

    def _settings(self, attack: str, *steps: int) -> dict[str, Any]:
        """Return the settings of one attack alone: another's are none of its business."""
        g = self.grid
        told: dict[str, dict[str, Any]] = {
            "none": {},
            "fgsm": {"epsilons": g.epsilons, "label": g.label},
            "pgd": {"step": g.step, "radius": g.radius, "steps": steps, "label": g.label},
        }
        fast = g.gradients != "float32"  # stages of before keep their keys
        return told[attack] | ({"gradients": g.gradients} if fast else {})

    def _identity(self, name: str) -> Any:
        """Return what decides the predictions of a defence."""
        if name in self.t.networks:
            return self.t.networks[name].stage.key
        controls = asdict(self.recipe.controls)
        return name if name.startswith("quantise") else controls[name.replace("-", "_")]

    def _needs(self, name: str) -> tuple[Stage, ...]:
        return (self.t.networks[name].stage,) if name in self.t.networks else ()

    def _target(self) -> nn.Module:
        return frozen(Recogniser.from_pretrained(self.t.target.stage.folder / MODEL).network)

    def _system(self, name: str, target: nn.Module, attack: str) -> System:
        """Return a defence; what it draws is its own for each attack, whatever came before."""
        c = self.recipe.controls
        if name in self.t.adversarial:
            folder = self.t.adversarial[name].stage.folder
            network = Recogniser.from_pretrained(folder / MODEL).network
            return System(name=name, model=frozen(network))
        front: nn.Module
        if name == "gaussian-noise":
            draws = generator(self.t.seed, "gaussian-noise", self.t.index, attack)
            front = GaussianNoise(c.gaussian_noise, draws)
        elif name == "mean-filter":
            front = MeanFilter(c.mean_filter)
        elif name in self.t.purifiers:
            folder = self.t.purifiers[name].stage.folder
            front = Purifier.from_pretrained(folder / MODEL).frozen()
        else:
            front = Quantise(int(name.rpartition("-")[2]))
        return before(target, front, name)

    def _keep(self, stage: Stage, frame: Any) -> Mapping[str, Any]:
        records.write(frame, stage.folder / TABLE, provenance=self.origin)
        return {"rows": len(frame)}
