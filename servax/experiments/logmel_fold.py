"""One fold and seed of a run on log-Mel: its trainings, and the attacks on what they leave.

Each is a stage. The oblivious attacks are one stage each for all defences, since all are scored on
the same inputs; the adaptive attacks are one stage each for every defence. So a change of one
attack computes that attack again and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from servax.errors import ServaxError
from servax.evaluation import records
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import AttackEngine, as_adaptive
from servax.evaluation.records import UNDEFENDED, Records
from servax.evaluation.suites import AttackGrid
from servax.evaluation.systems import System, before
from servax.evaluation.threats import Threat
from servax.experiments.fold import TABLE, FoldStages, RunData
from servax.experiments.recipe import Recipe
from servax.experiments.training import (
    START,
    Session,
    epochs_note,
    fold_parts,
    start_adversarial,
    train_adversarial,
    train_purifier,
    train_recogniser,
)
from servax.features import Dataset, ZScoreSettings
from servax.kinds import stored
from servax.models import NetworkName, frozen
from servax.purifier import Purifier
from servax.recognition import MODEL, Recogniser
from servax.report import Examples
from servax.stages import Stage, Task, Watcher
from servax.training import Fitted, Progress, derive, epoch_order, generator

EXAMPLE = "example.npz"
# Expected cost of one step against one training step of the recogniser: for the time estimate only.
COST_SSA_STEP = 0.5
COST_PURIFIER_STEP = 3.5
COST_GRADIENT = 0.7
COST_TWO_INPUTS = 2.0
COST_SCORING = 0.25  # of one defence


class FoldPlan(FoldStages[Recipe]):
    """All stages of one fold and seed; arguments as of `FoldStages`, without the target."""

    def __init__(
        self, data: RunData[Recipe], index: int, seed: int, origin: Mapping[str, Any]
    ) -> None:
        r = data.recipe
        super().__init__(data, index, seed, origin, f"{r.network}-w{r.width}")
        self.parts = fold_parts(
            self.fold, data.features, r.front_end, window_db=r.window_db, scale=r.scale
        )
        self.shared |= {
            "front_end": asdict(r.front_end),
            "scale": asdict(self.parts.scale.settings),
            "compute": asdict(r.compute),
        }
        self.target = self._recogniser("target")
        self.extractor = self._recogniser("extractor")
        self.purifiers = {name: self._purifier(name) for name in r.chosen}
        self._objectives = r.adversarial.models()
        self.start, self.adversarial = self._adversarial()
        self.grid: AttackGrid = r.attacks
        threats: dict[str, Threat | None] = {"none": None}
        threats |= {threat.name: threat for threat in self.grid.oblivious()}
        self._controls = r.controls.made()
        self.oblivious = {name: self._oblivious(name, threat) for name, threat in threats.items()}
        self.adaptive = [
            self._adaptive(threat, name) for name in r.defences for threat in self.grid.adaptive()
        ]

    @property
    def tasks(self) -> list[Task]:
        """The trainings, then the attacks, oblivious ones first; each finds what it needs."""
        start = [self.start] if self.start else []
        first = [self.target, self.extractor, *self.purifiers.values()]
        attacks = [*self.oblivious.values(), *self.adaptive]
        return [*first, *start, *self.adversarial.values(), *attacks]

    @property
    def networks(self) -> dict[str, Task]:
        """The trainings that leave a network, by its name."""
        named = {"target": self.target, "extractor": self.extractor}
        return {**named, **self.purifiers, **self.adversarial}

    def tables(self) -> Records:
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

    def told(self) -> dict[str, Any]:
        """Return what provenance says beside the recipe."""
        r, scale = self.recipe, self.parts.scale.settings
        window, z_score = (
            {"window_db": r.window_db},
            {"kind": "z-score", "width_sd": ZScoreSettings.width_sd},
        )
        told = {
            "scale": window if r.scale == "window" else z_score,
            "attacks": json.loads(json.dumps(r.attacks.told(), default=list)),
        }
        if isinstance(scale, ZScoreSettings):
            told["scale_sd_db"] = float(np.mean(scale.sd))
        return told

    def example(self) -> Task:
        """Return the stage that draws the spectrograms of one utterance before and after."""
        target, clean, pgd = self.target.stage, self.oblivious["none"], self.oblivious["pgd"]
        first = next(iter(self.purifiers))
        purifier = self.purifiers[first].stage
        stage = self.stage(
            "example", {"records": [clean.stage.key, pgd.stage.key], "purifier": purifier.key}
        )

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            tables = [records.read(task.stage.folder / TABLE) for task in (clean, pgd)]
            example = choose_example(
                records.concat(tables).frame,
                self._network(self.target),
                Purifier.from_pretrained(purifier.folder / MODEL).frozen(),
                self.parts.test,
                self.grid,
                defence=first,
                hop_seconds=self.recipe.front_end.logmel.hop_seconds,
            )
            example.save(stage.folder / EXAMPLE)
            watcher.advance()
            return {"title": example.title}

        needs = (target, purifier, clean.stage, pgd.stage)
        return Task(stage, "attack", needs, 1, self.grid.steps * COST_GRADIENT, work)

    def _recogniser(self, role: str) -> Task:
        r = self.recipe
        network: NetworkName = r.network if role == "target" else "vgg16"
        seed = derive(self.seed, role, self.index)
        settings = {"width": r.width, "training": asdict(r.recogniser), "seed": seed}
        if network != "vgg16":
            # The default is not named: results that were made before there were others stay valid.
            settings["network"] = network

        train = partial(
            train_recogniser,
            parts=self.parts,
            training=r.recogniser,
            width=r.width,
            network=network,
        )
        return self._task(role, settings, train, r.recogniser, seed)

    def _purifier(self, name: str) -> Task:
        r, extractor, preset = self.recipe, self.extractor.stage, self.recipe.chosen[name]
        seed = derive(self.seed, "purifier", self.index)
        settings = {
            "network": asdict(preset.network),
            "training": stored(preset.training),
            "discriminator": asdict(r.discriminator),
            "extractor": extractor.key,
            "seed": seed,
        }

        def train(session: Session) -> Fitted:
            found = Recogniser.from_pretrained(extractor.folder / MODEL).extractor
            return train_purifier(session, self.parts, found, preset, r.discriminator)

        return self._task(
            name,
            settings,
            train,
            preset.training,
            seed,
            each=COST_PURIFIER_STEP + COST_SSA_STEP * preset.training.ssa.steps,
            needs=(extractor,),
        )

    def _adversarial(self) -> tuple[Task | None, dict[str, Task]]:
        """Return the plain start that all adversarial trainings share, and the trainings."""
        objectives, training = self._objectives, self.recipe.adversarial.training
        if not objectives:
            return None, {}
        width, seed = self.recipe.width, derive(self.seed, "adversarial", self.index)
        given: dict[str, Any] = {"parts": self.parts, "training": training, "width": width}
        plain, rest = training.plain_iterations, training.iterations - training.plain_iterations

        start = self._task(
            "adversarial-start",
            {"width": width, "training": asdict(training), "seed": seed},
            partial(start_adversarial, **given),
            training,
            seed,
            steps=plain,
        )
        given["start"] = start.stage.folder / START
        trained = {
            name: self._task(
                name,
                {"objective": asdict(objective), "start": start.stage.key},
                partial(train_adversarial, objective=objective, **given),
                training,
                seed,
                steps=rest,
                each=COST_TWO_INPUTS + COST_GRADIENT * getattr(objective, "steps", 1),
                needs=(start.stage,),
            )
            for name, objective in objectives.items()
        }
        return start, trained

    def _task(
        self,
        kind: str,
        settings: Mapping[str, Any],
        train: Callable[[Session], Fitted],
        training: Any,
        seed: int,
        *,
        steps: int | None = None,
        each: float = 1.0,
        needs: tuple[Stage, ...] = (),
    ) -> Task:
        """Return a training as a task; it takes all epochs of its settings, or so many `steps`."""
        in_epoch = len(epoch_order(len(self.parts.train), training.batch_size, seed=0, epoch=0))
        most = training.epochs * in_epoch if steps is None else steps

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            def progress(at: Progress) -> None:
                watcher.advance(epochs_note(at))

            compute = self.recipe.compute
            return asdict(train(Session(stage.folder, seed, stage.settings, compute, progress)))

        epochs, cost = math.ceil(most / in_epoch), most * each
        return Task(self.stage(kind, settings), "train", needs, most, cost, work, epochs)

    def _oblivious(self, attack: str, threat: Threat | None) -> Task:
        names, count = self.recipe.defences, len(self.parts.test)
        told = {
            "defences": {name: self._identity(name) for name in names},
            "attack": self._settings(attack, self.grid.steps, self.grid.longest),
        }

        def attacked(engine: AttackEngine, target: nn.Module) -> pd.DataFrame:
            defences = [self._system(name, target, attack) for name in names]
            systems = [System(name=UNDEFENDED, model=target), *defences]
            if threat is None:
                return engine.clean(systems)
            return engine.on_source(threat, target, systems).frame

        size = self.recipe.batch_size
        steps = threat.ticks(count, size) if threat else -(-count // size)
        points = {"none": 1, "fgsm": len(self.grid.epsilons), "pgd": 1}[attack]
        each = points * COST_SCORING * (1 + len(names)) + (COST_GRADIENT if threat else 0.0)
        kind = {"none": "clean"}.get(attack, attack)
        return self._scored(kind, names, told, steps, each, attacked)

    def _adaptive(self, threat: Threat, name: str) -> Task:
        attack = threat.name
        told = {
            "defence": self._identity(name),
            "attack": self._settings(attack, self.grid.adaptive_steps),
        }

        def attacked(engine: AttackEngine, target: nn.Module) -> pd.DataFrame:
            system = self._system(name, target, f"adaptive-{attack}")
            through = threat if system.exact else replace(threat, knowledge="bpda")
            return engine.on_system(through, system).frame

        steps = threat.ticks(len(self.parts.test), self.recipe.batch_size)
        # A purifier's gradient is three times the recogniser's, which it passes through too.
        each = COST_GRADIENT * (4.0 if name in self.purifiers else 1.0)
        return self._scored(f"adaptive-{attack}-{name}", (name,), told, steps, each, attacked)

    def _scored(
        self,
        kind: str,
        names: Sequence[str],
        told: Mapping[str, Any],
        steps: int,
        each: float,
        attacked: Callable[[AttackEngine, nn.Module], pd.DataFrame],
    ) -> Task:
        """Return the stage of an attack on defences, each of whose steps costs `each`."""
        target = self.target.stage

        def made(tick: Callable[[], None]) -> pd.DataFrame:
            engine = AttackEngine(
                dataset=EvaluationSet.of(self.parts.test),
                identity=self.identity,
                batch_size=self.recipe.batch_size,
                compute=self.recipe.compute,
                gradients=self.grid.gradients,
                tick=tick,
            )
            return attacked(engine, self._network(self.target))

        needs = (target, *(self.networks[n].stage for n in names if n in self.networks))
        settings = {"target": target.key, **told}
        return self.scored(kind, settings, needs, steps, steps * each, made)

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
        trained = self.networks.get(name)
        return trained.stage.key if trained else self._controls[name][0]

    def _network(self, task: Task) -> nn.Module:
        return frozen(Recogniser.from_pretrained(task.stage.folder / MODEL).network)

    def _system(self, name: str, target: nn.Module, attack: str) -> System:
        """Return a defence; what it draws is its own for each attack, whatever came before."""
        draws = generator(self.seed, name, self.index, attack)
        if name in self.adversarial:
            objective, network = self._objectives[name], self._network(self.adversarial[name])
            return System(name=name, model=objective.answering(network, draws))
        bare = System(name=UNDEFENDED, model=target)
        if name in self.purifiers:
            folder = self.purifiers[name].stage.folder
            return before(bare, Purifier.from_pretrained(folder / MODEL).frozen(), name)
        return before(bare, self._controls[name][1](draws), name)


def choose_example(
    frame: pd.DataFrame,
    target: nn.Module,
    purifier: nn.Module,
    test: Dataset,
    grid: AttackGrid,
    *,
    defence: str,
    hop_seconds: float,
) -> Examples:
    """Return the spectrograms of one test utterance under the longest PGD of the grid.

    The choice is the first utterance that shows what the figure is about; when there is none, the
    first that the undefended target reads rightly, and its title says what became of it.

    Raises:
        ServaxError: The test part is empty.
    """
    if not len(test):
        raise ServaxError("the test part has no utterance to draw an example from.")
    clean = _predictions(frame, UNDEFENDED, "none", 0.0)
    attacked = _predictions(frame, UNDEFENDED, "pgd", float(grid.steps))
    purified = _predictions(frame, defence, "pgd", float(grid.steps))
    label = test.corpus.utterances.set_index("utterance")["label"]
    names = list(label.index)
    right = [n for n in names if clean[n] == label[n]]
    shown = [n for n in right if attacked[n] != label[n] and purified[n] == label[n]]
    name = (shown or right or names)[0]
    batch = test.batch(np.array([names.index(name)]), next(target.parameters()).device)
    adversarial = grid.pgd(grid.steps)(target, batch.x, batch.y)
    original, moved, cleaned = (
        test.scale.inverse(x.detach()).cpu().numpy()[0, 0]
        for x in (batch.x, adversarial, purifier(adversarial))
    )
    return Examples(
        original=original,
        attacked=moved,
        purified=cleaned,
        hop_seconds=hop_seconds,
        title=(
            f"{name}: {label[name]}, read as {clean[name]}; after PGD-{grid.steps} as "
            f"{attacked[name]}; purified ({defence}) as {purified[name]}"
        ),
    )


def _predictions(frame: pd.DataFrame, defence: str, attack: str, strength: float) -> pd.Series[str]:
    chosen = frame[
        (frame["defence"] == defence)
        & (frame["attack"] == attack)
        & (frame["strength"] == strength)
        & frame["knowledge"].isin(("none", "oblivious"))
    ]
    return chosen.set_index("utterance")["prediction"]
