"""The stages of one fold, in order: target, extractor, purifiers, attacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servax.defences import GaussianNoise, MeanFilter, Quantise
from servax.errors import ServaxError
from servax.evaluation import records
from servax.evaluation.protocol import Defence, Identity, evaluate
from servax.experiments.example import choose_example
from servax.experiments.prepared import Prepared, stage_name
from servax.experiments.stages import Stage, Watcher, make_stage, perform
from servax.experiments.training import (
    MODEL,
    epochs_note,
    load_recogniser,
    train_purifier,
    train_recogniser,
)
from servax.models import frozen
from servax.models.storage import SETTINGS, WEIGHTS
from servax.purifier import PRESETS, Purifier
from servax.training import derive, generator
from servax.training.log import LOG_NAME

RECORDS = "records"
TABLE = "records.parquet"
EXAMPLE = "example.npz"
LOGS = "logs"
MODELS = "models"


class FoldRun:
    """The stages of one fold, in order."""

    def __init__(self, prepared: Prepared, index: int, watcher: Watcher) -> None:
        self.p, self.index, self.watcher = prepared, index, watcher
        self.recipe = prepared.recipe
        self.parts = prepared.parts(index)
        fold = prepared.folds[index]
        self.shared = {
            "fold": fold.hash,
            "content": prepared.content,
            "corpus": asdict(self.recipe.corpus) | {"root": None},
            "front_end": asdict(self.recipe.front_end),
            "scale": asdict(self.parts.scale.settings),
            "compute": asdict(self.recipe.compute),
        }

    def perform(self, origin: Mapping[str, Any]) -> None:
        """Compute what is missing and put records, logs and the first fold's example in place."""
        target = self._recogniser("target")
        extractor = self._recogniser("extractor")
        purifiers = {name: self._purifier(name, extractor) for name in self.recipe.purifiers}
        attacked = self._attack(target, purifiers, origin)
        fold, run = f"fold-{self.index + 1}", self.p.folder
        publish(attacked.folder / TABLE, run / RECORDS / f"{fold}.parquet")
        networks = {"target": target, "extractor": extractor, **purifiers}
        for name, stage in networks.items():
            for part in (SETTINGS, WEIGHTS):
                publish(stage.folder / MODEL / part, run / MODELS / f"{fold}-{name}" / part)
        if self.index == self.recipe.folds[0]:
            publish(attacked.folder / EXAMPLE, run / EXAMPLE)
            for name, stage in networks.items():
                publish(stage.folder / LOG_NAME, run / LOGS / f"{fold}-{name}.jsonl")

    def _recogniser(self, role: str) -> Stage:
        r = self.recipe
        seed = derive(r.seed, role, self.index)
        stage = self._stage(
            role, {"width": r.width, "training": asdict(r.recogniser), "seed": seed}
        )

        def work(stage: Stage) -> Mapping[str, Any]:
            fitted = train_recogniser(
                self.parts,
                r.width,
                r.recogniser,
                stage.folder,
                seed=seed,
                settings=stage.settings,
                compute=r.compute,
                progress=lambda p: self.watcher.advance(epochs_note(p)),
            )
            return asdict(fitted)

        perform(stage, self.p.training_steps(self.index, r.recogniser), work, self.watcher)
        return stage

    def _purifier(self, name: str, extractor: Stage) -> Stage:
        r = self.recipe
        training, network = r.training(name), PRESETS[name].network
        seed = derive(r.seed, "purifier", self.index)
        stage = self._stage(
            name,
            {
                "network": asdict(network),
                "training": asdict(training),
                "discriminator": asdict(r.discriminator),
                "extractor": extractor.key,
                "seed": seed,
            },
        )

        def work(stage: Stage) -> Mapping[str, Any]:
            fitted = train_purifier(
                self.parts,
                load_recogniser(extractor.folder / MODEL).network,
                network,
                training,
                r.discriminator,
                stage.folder,
                seed=seed,
                settings=stage.settings,
                compute=r.compute,
                progress=lambda p: self.watcher.advance(epochs_note(p)),
            )
            return asdict(fitted)

        perform(stage, self.p.training_steps(self.index, training), work, self.watcher)
        return stage

    def _attack(
        self, target: Stage, purifiers: Mapping[str, Stage], origin: Mapping[str, Any]
    ) -> Stage:
        r = self.recipe
        stage = self._stage(
            "attacks",
            {
                "target": target.key,
                "purifiers": {name: stage.key for name, stage in purifiers.items()},
                "controls": asdict(r.controls),
                "attacks": asdict(r.attacks),
                "batch_size": r.batch_size,
                "seed": r.seed,
            },
        )

        def work(stage: Stage) -> Mapping[str, Any]:
            network = frozen(load_recogniser(target.folder / MODEL).network)
            defences = self._defences(purifiers)
            frame = evaluate(
                network,
                defences,
                self.parts.test,
                r.attacks,
                Identity(target=f"vgg16-w{r.width}", fold=self.index + 1, seed=r.seed),
                batch_size=r.batch_size,
                compute=r.compute,
                tick=self.watcher.advance,
            )
            first = next(iter(purifiers))
            example = choose_example(
                frame,
                network,
                defences[first].module,
                self.parts.test,
                r.attacks,
                defence=first,
                hop_seconds=r.front_end.logmel.hop_seconds,
            )
            example.save(stage.folder / EXAMPLE)
            path = stage.folder / TABLE
            records.write(frame, path, provenance=self._provenance(origin))
            return {"rows": len(frame)}

        perform(stage, self.p.attack_ticks(self.index), work, self.watcher)
        return stage

    def _defences(self, purifiers: Mapping[str, Stage]) -> dict[str, Defence]:
        c = self.recipe.controls
        noise = generator(self.recipe.seed, "gaussian-noise", self.index)
        noisy = GaussianNoise(c.gaussian_noise, noise)
        defences = {
            "gaussian-noise": Defence(noisy, noisy.knowledge),
            "mean-filter": Defence(MeanFilter(c.mean_filter), MeanFilter.knowledge),
        }
        for bits in c.quantise_bits:
            defences[f"quantise-{bits}"] = Defence(Quantise(bits), Quantise.knowledge)
        for name, stage in purifiers.items():
            purifier = Purifier.from_pretrained(stage.folder / MODEL)
            defences[name] = Defence(purifier.frozen())
        return defences

    def _provenance(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        r = self.recipe
        hashes = [self.p.folds[i].hash for i in r.folds]
        return {
            **origin,
            "recipe": r.name,
            "settings": json.loads(json.dumps(asdict(r), default=list)),
            "corpus": self.p.corpus.name,
            "scheme": r.corpus.scheme,
            "classes": list(self.p.corpus.labels),
            "fold_hash": ", ".join(h[:16] for h in hashes),
            "seed": r.seed,
            "scale": {"window_db": r.window_db},
            "attacks": json.loads(json.dumps(asdict(r.attacks), default=list)),
        }

    def _stage(self, kind: str, settings: Mapping[str, Any]) -> Stage:
        name = stage_name(self.index, kind)
        return make_stage(self.p.folder, kind, name, {**self.shared, **settings})


def publish(result: Path, place: Path) -> None:
    """Copy a stage's result to where people look for it, in one step."""
    temporary = place.with_name(f".{place.name}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result, temporary)
        temporary.replace(place)
    except OSError as error:
        raise ServaxError(f"{place}: cannot be written ({error.strerror}).") from None
