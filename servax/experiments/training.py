"""Training of recognisers and purifiers, from datasets to a folder with weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servax.corpora import Fold
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
)


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


def epochs_note(progress: Progress) -> str:
    """Return what a progress bar says beside itself."""
    terms = [
        f"{name.removeprefix('validation/')} {value:.3f}"
        for name, value in progress.terms.items()
        if name in ("validation/uar", "validation/loss")
    ]
    return " ".join([f"epoch {progress.epoch + 1}/{progress.epochs}", *terms])
