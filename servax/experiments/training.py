"""Training of recognisers and purifiers, from datasets to a folder with weights.

Adversarial training has a plain part, from which every objective goes on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from servax.corpora import Fold
from servax.defences import AdversarialTrainer, AdversarialTraining, Objective
from servax.errors import CheckpointError
from servax.features import (
    Dataset,
    Features,
    FrontEndSettings,
    ScaleKind,
    Scaling,
    fit_scale,
)
from servax.models import (
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    NetworkName,
    RestorerSettings,
    feature_extractor,
    frozen,
    new_restorer,
)
from servax.purifier import (
    Purifier,
    PurifierTrainer,
    PurifierTraining,
    SurrogateTrainer,
    SurrogateTraining,
)
from servax.recognition import MODEL, Recogniser, new_recogniser
from servax.training import (
    Compute,
    Fitted,
    Progress,
    RecogniserTrainer,
    RecogniserTraining,
    fit,
    global_seed,
    load_checkpoint,
    save_checkpoint,
)

START = "start.pt"
"""State after the plain part of an adversarial training; every objective goes on from it."""


@dataclass(frozen=True)
class Parts:
    """The datasets of one fold and what they were made with."""

    train: Dataset
    validation: Dataset
    test: Dataset
    scale: Scaling
    front_end: FrontEndSettings


def fold_parts(
    fold: Fold,
    features: Features,
    front_end: FrontEndSettings,
    *,
    window_db: float = 80.0,
    scale: ScaleKind = "window",
) -> Parts:
    """Return the datasets of a fold, scaled on its training speakers."""
    fitted = fit_scale(fold.train, features, window_db=window_db, kind=scale)
    train, validation, test = (
        Dataset(part, features, fitted) for part in (fold.train, fold.validation, fold.test)
    )
    return Parts(train, validation, test, fitted, front_end)


def train_recogniser(
    parts: Parts,
    width: int,
    training: RecogniserTraining,
    folder: Path,
    *,
    seed: int,
    settings: str,
    compute: Compute,
    network: NetworkName = "vgg16",
    progress: Any = None,
) -> Fitted:
    """Train a recogniser on a fold and leave its best weights in ``folder/model``.

    Raises:
        SettingError: `network` is not one of `RECOGNISERS`.
    """
    model = new_recogniser(network, parts.train.classes, width, seed=seed)
    trainer = RecogniserTrainer(
        model, parts.train, parts.validation, training, seed=seed, compute=compute
    )
    fitted = fit(
        trainer, training.schedule(), folder, seed=seed, settings=settings, progress=progress
    )
    Recogniser.of(model, parts.train, parts.front_end).save_pretrained(folder / MODEL)
    return fitted


def train_purifier(
    parts: Parts,
    extractor: VGG16,
    network: RestorerSettings,
    training: PurifierTraining | SurrogateTraining,
    discriminator: DiscriminatorSettings,
    folder: Path,
    *,
    seed: int,
    settings: str,
    compute: Compute,
    progress: Any = None,
) -> Fitted:
    """Train P with a frozen extractor and leave the best P in ``folder/model``.

    Against D, or, as `SurrogateTraining` says, with the extractor as the only surrogate. The
    protected recogniser has no part in this: only the extractor's weights are used.
    """
    speech = (parts.train, parts.validation)
    trainer: PurifierTrainer | SurrogateTrainer
    with global_seed(seed, "weights"):
        purifier_network = new_restorer(network)
        if isinstance(training, SurrogateTraining):
            trainer = SurrogateTrainer(
                purifier_network, [extractor], *speech, training, seed=seed, compute=compute
            )
        else:
            trainer = PurifierTrainer(
                purifier_network,
                Discriminator(discriminator),
                feature_extractor(frozen(extractor), training.tap),
                *speech,
                training,
                seed=seed,
                compute=compute,
            )
    fitted = fit(
        trainer, training.schedule(), folder, seed=seed, settings=settings, progress=progress
    )
    heard = map(str, parts.train.corpus.speakers)
    purifier = Purifier(purifier_network, parts.scale, parts.front_end, heard)
    purifier.save_pretrained(folder / MODEL)
    return fitted


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


def epochs_note(progress: Progress) -> str:
    """Return what a progress bar says beside itself."""
    terms = [
        f"{name.removeprefix('validation/')} {value:.3f}"
        for name, value in progress.terms.items()
        if name in ("validation/uar", "validation/loss")
    ]
    return " ".join([f"epoch {progress.epoch + 1}/{progress.epochs}", *terms])
