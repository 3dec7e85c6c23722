"""``servax train recogniser | purifier``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from servax.cli.output import bar, say
from servax.corpora import cache_folder, load
from servax.errors import SettingError
from servax.experiments.training import (
    MODEL,
    Parts,
    fold_parts,
    load_recogniser,
    train_purifier,
    train_recogniser,
)
from servax.features import FrontEnd, FrontEndSettings, extract
from servax.models import DiscriminatorSettings
from servax.purifier import preset as purifier_preset
from servax.training import Compute, Progress, RecogniserTraining


def recogniser(
    corpus: str,
    out: str,
    *,
    root: str | None,
    scheme: str,
    groups: int,
    held_out: int,
    width: int,
    epochs: int,
    seed: int,
    device: str,
) -> int:
    """Train a recogniser into ``out/model``."""
    compute = Compute(device=device)
    compute.resolve()  # a wrong device is refused before any work is done
    training = RecogniserTraining(epochs=epochs)
    parts = _parts(corpus, root, scheme, groups, held_out)
    settings = _identity(parts, width=width, training=asdict(training), seed=seed)
    with bar("recogniser") as update:
        fitted = train_recogniser(
            parts,
            width,
            training,
            Path(out),
            seed=seed,
            settings=settings,
            compute=compute,
            progress=_epochs(update),
        )
    say(f"validation UAR {fitted.best:.3f} in epoch {fitted.best_epoch + 1}: {Path(out) / MODEL}")
    return 0


def purifier(
    corpus: str,
    extractor: str,
    out: str,
    *,
    root: str | None,
    scheme: str,
    groups: int,
    held_out: int,
    preset: str,
    epochs: int,
    ssa_steps: int,
    seed: int,
    device: str,
) -> int:
    """Train a purifier into ``out/model``."""
    compute = Compute(device=device)
    compute.resolve()  # a wrong device is refused before any work is done
    chosen = purifier_preset(preset)
    ssa = replace(chosen.training.ssa, steps=ssa_steps)
    training = replace(chosen.training, ssa=ssa, epochs=epochs)
    parts = _parts(corpus, root, scheme, groups, held_out)
    found = load_recogniser(Path(extractor))
    if found.scale.settings != parts.scale.settings or found.front_end != parts.front_end:
        raise SettingError(
            "extractor",
            extractor,
            "one trained on the same fold, with the same scale and front-end",
        )
    settings = _identity(
        parts,
        network=asdict(chosen.network),
        training=asdict(training),
        extractor=str(Path(extractor).resolve()),
        seed=seed,
    )
    with bar("purifier") as update:
        fitted = train_purifier(
            parts,
            found.network,
            chosen.network,
            training,
            DiscriminatorSettings(),
            Path(out),
            seed=seed,
            settings=settings,
            compute=compute,
            progress=_epochs(update),
        )
    say(f"validation loss {fitted.best:.4f} in epoch {fitted.best_epoch + 1}: {Path(out) / MODEL}")
    return 0


def _parts(corpus: str, root: str | None, scheme: str, groups: int, held_out: int) -> Parts:
    whole = load(corpus, root, scheme=scheme)
    folds = whole.folds(groups)
    if not 1 <= held_out <= len(folds):
        raise SettingError("held_out", held_out, f"a group from 1 to {len(folds)}")
    fold = folds[held_out - 1]
    front_end = FrontEndSettings()
    with bar("features") as update:
        features = extract(
            whole, FrontEnd(front_end), folder=cache_folder() / "features", progress=update
        )
    return fold_parts(fold, features, front_end)


def _identity(parts: Parts, **settings: Any) -> str:
    people = [*parts.train.corpus.utterances["utterance"]]
    return json.dumps({"train": people, **settings}, sort_keys=True, default=list)


def _epochs(update: Callable[[int, int], None]) -> Callable[[Progress], None]:
    return lambda p: update(p.epoch * p.steps + p.step, p.epochs * p.steps)
