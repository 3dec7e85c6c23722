"""One fold and seed of a run on sound: heads on a speech encoder, and the attacks on them.

As `FoldPlan` of a run on log-Mel: each attack is a stage, oblivious and transfer ones for all
systems at once, the others for each. Where the encoder stays as it was published, a training hears
every utterance once, for all folds, and fits a head in seconds; `tunings` go on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from servax.corpora import cache_folder
from servax.defences import ExpectationOverDraws, generators_of
from servax.errors import SettingError
from servax.evaluation import records
from servax.evaluation.dataset import heard_by, some
from servax.evaluation.engine import MOST_DRAWS, AttackEngine, as_adaptive, covers
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended, surrogate
from servax.evaluation.records import UNDEFENDED, Records
from servax.evaluation.systems import Said, System, system_of
from servax.evaluation.threats import Threat
from servax.experiments.fold import TABLE, FoldStages, RunData
from servax.experiments.recipe import TARGET, TWIN, EncoderRecipe
from servax.experiments.training import (
    Session,
    epochs_note,
    train_encoder_recogniser,
    tune_encoder,
)
from servax.models import EncoderClassifier, EncoderHead
from servax.recognition import MODEL
from servax.stages import Stage, Task, Watcher
from servax.training import HeadTraining, Progress, derive

# Cost in gradients of one utterance: for the time estimate only.
COST_HEARD = 0.3
COST_ANSWER = 0.3
COST_TUNED = 1.5
COST_DRAWS = 8.0


@dataclass(frozen=True)
class Fronts:
    """What stands before or beside the target, looked at before anything is trained."""

    defences: Mapping[str, System]
    """Each before a head that has learned nothing, by name."""
    surrogates: Mapping[str, System]
    """Where transfer attacks start beside the twin, by name."""

    @classmethod
    def of(cls, data: RunData[EncoderRecipe]) -> Fronts:
        """Return what a recipe names.

        Raises:
            ServaxError: A defence or surrogate is unknown, does not fit, or needs what is not
                installed.
        """
        recipe, encoder = data.recipe, data.hearing.encoder
        head = EncoderHead(len(data.corpus.labels), encoder.width, encoder.depth)
        bare = system_of(
            EncoderClassifier(encoder, head).eval(),
            Said(seconds=recipe.seconds),
            Said(
                labels=data.corpus.labels,
                sample_rate=data.hearing.sample_rate,
                inputs="waveform",
            ),
            name=recipe.name,
            place=recipe.encoder,
            source=recipe.encoder,
            fingerprint="",
            shut_by="",
        )
        return cls(
            {
                name: defended(bare, f"{name}={what}", seed=0)
                for name, what in recipe.defences.items()
            },
            {name: surrogate(bare, f"{name}={what}") for name, what in recipe.surrogates.items()},
        )


class EncoderFold(FoldStages[EncoderRecipe]):
    """All stages of one fold and seed: its trainings, and the attacks on what they leave.

    Arguments as of `FoldStages`, without the target, and `fronts`: what stands before or beside it.
    """

    def __init__(
        self,
        data: RunData[EncoderRecipe],
        fronts: Fronts,
        index: int,
        seed: int,
        origin: Mapping[str, Any],
    ) -> None:
        super().__init__(data, index, seed, origin, Path(data.recipe.encoder).name)
        self.fronts = fronts
        self.shared["encoder"] = asdict(data.hearing.settings)
        heads = {TARGET: self.recipe.head, TWIN: self.recipe.head, **self.recipe.rivals}
        self.networks = {role: self._head(role, training) for role, training in heads.items()}
        """The trainings that leave a recogniser, by its name."""
        self.systems = (UNDEFENDED, *self.recipe.rivals, *self.recipe.defences)
        self._refuse_who_has_heard()

    @property
    def tasks(self) -> list[Task]:
        """The trainings, then the attacks, those on one source first."""
        return [*self.networks.values(), *(task for task, _ in self.attacks)]

    @cached_property
    def attacks(self) -> list[tuple[Task, Threat | None]]:
        """The clean answers, then all attacks, each with its threat."""
        return [self._clean(), *self._on_sources(), *self._through()]

    def example(self) -> None:
        """Return no stage: there is no log-Mel to draw."""

    def told(self) -> dict[str, Any]:
        """Return what provenance says beside the recipe."""
        return {
            "attacks": json.loads(json.dumps(self.recipe.attacks.told(), default=list)),
            "encoder": asdict(self.data.hearing.settings),
        }

    def tables(self) -> Records:
        """Return the tables of all attacks as one, with what made each."""
        draws = self.recipe.head.vaccinate_db is not None
        known = [] if draws else list(self.recipe.attacks.adaptive())
        tables = []
        for task, threat in self.attacks:
            table = records.read(task.stage.folder / TABLE)
            tables.append(table)
            if threat is not None and threat.knowledge == "oblivious":
                # Nothing stands before the bare target: its oblivious attack is its adaptive one.
                tables += [
                    Records(as_adaptive(table.frame, each), table.provenance)
                    for each in known
                    if covers(threat, each)
                ]
        return records.concat(tables)

    def _refuse_who_has_heard(self) -> None:
        """Refuse a defence that was trained on speakers of this fold's test part."""
        test = set(map(str, self.fold.test.speakers))
        for name, system in self.fronts.defences.items():
            purifier = getattr(system.front, "purifier", system.front)
            known = sorted(test & set(getattr(purifier, "speakers", ())))
            if known:
                raise SettingError(
                    f"defences.{name}",
                    self.recipe.defences[name],
                    f"one that was not trained on speakers who are held out in fold "
                    f"{self.index + 1} ({', '.join(known)}): leave it out, or hold out other "
                    "groups (held_out)",
                )

    def _head(self, role: str, training: HeadTraining) -> Task:
        """Return the training of one head.

        The seed is that of the run, as that of `servax train recogniser`, of all but the twin; the
        noisy copies that it draws are the same for every fold, so that they are heard once.
        """
        seed = derive(self.seed, role) if role == TWIN else self.seed
        sounds = len(training.copies(0)) * len(self.data.corpus)
        tuning = self.recipe.tunings.get(role)
        settings: dict[str, Any] = {"training": asdict(training), "seed": seed}
        steps, cost, epochs = sounds, sounds * COST_HEARD, 1
        if tuning is not None:
            compute, epochs = self.recipe.compute, tuning.epochs
            settings |= {"tuning": asdict(tuning), "precision": compute.precision}
            steps += epochs * -(-len(self.fold.train) // tuning.batch_size)
            passes = COST_TUNED * (1 + (tuning.attack_db is not None) * (1 + tuning.attack_steps))
            cost += epochs * len(self.fold.train) * passes

        def work(stage: Stage, watcher: Watcher) -> Mapping[str, Any]:
            recogniser, found = train_encoder_recogniser(
                self.data.corpus,
                self.fold,
                self.data.hearing.encoder,
                training,
                seed=seed,
                cache=cache_folder() / "features",
                progress=lambda done, of: watcher.advance(f"{done}/{of} sounds"),
            )
            if tuning is None:
                recogniser.save_pretrained(stage.folder / MODEL)
                return {"penalty": found.penalty, "validation_uar": found.uar}

            def progress(at: Progress) -> None:
                watcher.advance(epochs_note(at))

            session = Session(stage.folder, seed, stage.settings, compute, progress)
            return asdict(tune_encoder(session, recogniser, found, self.fold, tuning))

        return Task(self.stage(role, settings), "train", (), steps, cost, work, epochs)

    def _clean(self) -> tuple[Task, None]:
        def attacked(engine: AttackEngine, systems: Sequence[System]) -> pd.DataFrame:
            return engine.clean(systems)

        return self._scored("clean", self.systems, {}, 1.0, attacked), None

    def _on_sources(self) -> Iterator[tuple[Task, Threat]]:
        """Yield the attacks that are made once, for all systems: oblivious and transfer."""
        grid = self.recipe.attacks
        threats = list(grid.oblivious())
        for name in (TWIN, *self.fronts.surrogates):
            threats += grid.transfer(name)
        for threat in threats:
            yield self._attack(threat, self.systems), threat

    def _through(self) -> Iterator[tuple[Task, Threat]]:
        """Yield the attacks through each system."""
        grid = self.recipe.attacks
        for name in self.systems:
            front = self.fronts.defences.get(name)
            exact = front is None or front.exact
            draws = front is not None and bool(generators_of(front.model))
            identity = grid.bpda() if front and exact and not draws else ()
            threats = [grid.noise(), *grid.black_box(), *identity]
            # A target that draws is attacked through its mean by who knows it, not obliviously.
            made = () if self.recipe.head.vaccinate_db is not None else grid.oblivious()
            adaptive = [
                each
                for each in grid.adaptive()
                if name != UNDEFENDED or not any(covers(e, each) for e in made)
            ]
            threats += [each if exact else replace(each, knowledge="bpda") for each in adaptive]
            for threat in threats:
                yield self._attack(threat, (name,)), threat

    def _attack(self, threat: Threat, names: tuple[str, ...]) -> Task:
        """Return one attack: on a source for all systems, or through the one that is named."""
        source = threat.surrogate
        apart = threat.knowledge in ("oblivious", "transfer")

        def attacked(engine: AttackEngine, systems: Sequence[System]) -> pd.DataFrame:
            if not apart:
                random = engine.random(systems[0])
                through = threat.on_random() if random else threat
                return engine.on_system(through, systems[0]).frame
            model = (self._source(source) if source else systems[0]).model
            return engine.on_source(threat, model, systems).frame

        told: dict[str, Any] = {"threat": repr(threat)}
        if source:
            known = self.networks.get(source)
            told["source"] = (
                known.stage.key if known else self.fronts.surrogates[source].fingerprint
            )
        each = threat.gradients + COST_ANSWER * threat.queries
        front = self.fronts.defences.get(names[0])
        if front is not None and generators_of(front.model):
            each *= COST_DRAWS
        kind = "-".join([threat.knowledge, threat.name, *(() if apart else names)])
        return self._scored(kind, names, told, each, attacked, threat)

    def _scored(
        self,
        kind: str,
        names: Sequence[str],
        told: Mapping[str, Any],
        each: float,
        attacked: Callable[[AttackEngine, Sequence[System]], pd.DataFrame],
        threat: Threat | None = None,
    ) -> Task:
        """Return the stage of an attack on systems, which costs `each` for every utterance."""
        r = self.recipe
        corpus = some(self.fold.test, r.utterances, seed=self.seed)

        def made(tick: Callable[[], None]) -> pd.DataFrame:
            systems = [self._system(name) for name in names]
            _, heard = heard_by(systems[0], self.fold, corpus)
            engine = AttackEngine(
                dataset=heard,
                identity=self.identity,
                batch_size=r.batch_size,
                compute=r.compute,
                reseeds=True,
                most_draws=r.attack_draws,
                tick=tick,
            )
            return attacked(engine, systems)

        settings = {
            "systems": {name: self._identity(name) for name in names},
            "target": self.networks[TARGET].stage.key,
            "in every row": asdict(self.identity),
            "utterances": corpus.utterances["utterance"].tolist(),
            "draws": r.draws,
            "seconds": r.seconds,
            **told,
        }
        averaged = threat is not None and threat.knowledge in ("adaptive", "bpda")
        if averaged and r.attack_draws != MOST_DRAWS:  # runs that never named it go on
            settings["attack_draws"] = r.attack_draws
        batches = -(-len(corpus) // r.batch_size)
        steps = threat.ticks(len(corpus), r.batch_size) if threat else batches
        needs = [task.stage for task in self.networks.values()]
        return self.scored(kind, settings, needs, steps, len(corpus) * each, made)

    def _identity(self, name: str) -> str:
        """Return what decides the answers of a system, beside the target."""
        if name == UNDEFENDED:
            return ""
        rival = self.networks.get(name)
        return rival.stage.key if rival else self.fronts.defences[name].fingerprint

    def _source(self, name: str) -> System:
        """Return where a transfer attack starts."""
        return self._trained(name) if name in self.networks else self.fronts.surrogates[name]

    def _system(self, name: str) -> System:
        bare = replace(self._trained(TARGET), name=UNDEFENDED)
        if name == UNDEFENDED:
            return bare
        if name in self.networks:
            return replace(self._trained(name), name=name)
        system = defended(bare, f"{name}={self.recipe.defences[name]}", seed=self.seed)
        if generators_of(system.model):
            mean = ExpectationOverDraws(system.model, self.recipe.draws).eval()
            return replace(system, model=mean)
        return system

    def _trained(self, role: str) -> System:
        folder = self.networks[role].stage.folder / MODEL
        return load_system(str(folder), seconds=self.recipe.seconds)
