"""Adversarial training: a plain part that every objective goes on from, then the objective."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servax.defences.adversarial import AdversarialTrainer, AdversarialTraining, Objective
from servax.errors import CheckpointError
from servax.experiments.training import Parts
from servax.models import VGG16
from servax.recognition import MODEL, Recogniser
from servax.training import Compute, Fitted, fit, global_seed, load_checkpoint, save_checkpoint

START = "start.pt"
"""State after the plain part of an adversarial training; every objective goes on from it."""


def start_adversarial(
    parts: Parts,
    width: int,
    training: AdversarialTraining,
    folder: Path,
    *,
    seed: int,
    settings: str,
    compute: Compute,
    progress: Any = None,
) -> Fitted:
    """Train the plain part of an adversarial training and leave its state in ``folder/start.pt``.

    Without plain iterations that is the state of a fresh network.
    """
    trainer = _adversarial_trainer(parts, width, None, training, seed=seed, compute=compute)
    fitted = Fitted(best_epoch=-1, best=0.0, epochs=0)
    if trainer.epochs:
        fitted = fit(
            trainer, trainer.schedule(), folder, seed=seed, settings=settings, progress=progress
        )
    identity = _start_identity(parts, width, training, seed)
    save_checkpoint(folder / START, {"settings": identity, "training": trainer.state()})
    return fitted


def train_adversarial(
    parts: Parts,
    width: int,
    objective: Objective,
    training: AdversarialTraining,
    folder: Path,
    *,
    start: Path,
    seed: int,
    settings: str,
    compute: Compute,
    progress: Any = None,
) -> Fitted:
    """Go on with `objective` from a plain part and leave the last weights in ``folder/model``.

    Args:
        parts: The fold that the plain part was trained on.
        width: Width of its network.
        objective: What to minimise.
        training: Its schedule.
        folder: Holds the checkpoint, the log and the model.
        start: The ``start.pt`` that `start_adversarial` left.
        seed: Its seed.
        settings: Text that identifies this run.
        compute: Device and precision.
        progress: Called after each step.

    Raises:
        CheckpointError: `start` is missing, broken, or of another fold, width, seed or schedule.
    """
    state = load_checkpoint(start, settings=_start_identity(parts, width, training, seed))
    if state is None:
        raise CheckpointError(
            start, "no such file; expected the plain part of an adversarial training"
        )
    trainer = _adversarial_trainer(parts, width, objective, training, seed=seed, compute=compute)
    trainer.load_state(state["training"])
    fitted = fit(
        trainer, trainer.schedule(), folder, seed=seed, settings=settings, progress=progress
    )
    Recogniser.of(trainer.network, parts.train, parts.front_end).save_pretrained(folder / MODEL)
    return fitted


def _adversarial_trainer(
    parts: Parts,
    width: int,
    objective: Objective | None,
    training: AdversarialTraining,
    *,
    seed: int,
    compute: Compute,
) -> AdversarialTrainer:
    with global_seed(seed, "weights"):
        network = VGG16(parts.train.classes, width)
    return AdversarialTrainer(
        network, parts.train, parts.validation, objective, training, seed=seed, compute=compute
    )


def _start_identity(parts: Parts, width: int, training: AdversarialTraining, seed: int) -> str:
    """Return what decides the weights of a plain part, as text."""
    corpus = parts.train.corpus
    spoken = [*corpus.utterances["utterance"], *corpus.utterances["label"]]
    return json.dumps(
        {
            "width": width,
            "training": asdict(training),
            "seed": seed,
            "labels": list(corpus.labels),
            "utterances": hashlib.sha256("\0".join(spoken).encode()).hexdigest(),
            "scale": asdict(parts.scale.settings),
            "front_end": asdict(parts.front_end),
        },
        sort_keys=True,
    )
