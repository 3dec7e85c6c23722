"""The two kinds of training of an experiment, from datasets to a folder with weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from servax.corpora import Fold
from servax.errors import CheckpointError, ServaxError
from servax.features import Dataset, Features, FrontEndSettings, Scale, ScaleSettings, fit_scale
from servax.models import (
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    FrameTransformer,
    FrameTransformerSettings,
    feature_extractor,
    frozen,
    load_network,
    save_network,
)
from servax.models.storage import SETTINGS
from servax.purifier import Purifier, PurifierTrainer, PurifierTraining
from servax.training import (
    Compute,
    Fitted,
    Progress,
    RecogniserTrainer,
    RecogniserTraining,
    fit,
    global_seed,
)

MODEL = "model"


@dataclass(frozen=True)
class Parts:
    """The datasets of one fold and what they were made with."""

    train: Dataset
    validation: Dataset
    test: Dataset
    scale: Scale
    front_end: FrontEndSettings


def fold_parts(
    fold: Fold, features: Features, front_end: FrontEndSettings, *, window_db: float = 80.0
) -> Parts:
    """Return the datasets of a fold, scaled on its training speakers."""
    scale = fit_scale(fold.train, features, window_db=window_db)
    train, validation, test = (
        Dataset(part, features, scale) for part in (fold.train, fold.validation, fold.test)
    )
    return Parts(train, validation, test, scale, front_end)


@dataclass(frozen=True)
class Recogniser:
    """A recogniser read from a folder, with what it was trained on."""

    network: VGG16
    labels: tuple[str, ...]
    scale: Scale
    front_end: FrontEndSettings


def train_recogniser(
    parts: Parts,
    width: int,
    training: RecogniserTraining,
    folder: Path,
    *,
    seed: int,
    settings: str,
    compute: Compute,
    progress: Any = None,
) -> Fitted:
    """Train a VGG-16 on a fold and leave its best weights in ``folder/model``."""
    with global_seed(seed, "weights"):
        network = VGG16(parts.train.classes, width)
    trainer = RecogniserTrainer(
        network, parts.train, parts.validation, training, seed=seed, compute=compute
    )
    fitted = fit(
        trainer, training.schedule(), folder, seed=seed, settings=settings, progress=progress
    )
    extra = {
        "role": "recogniser",
        "labels": list(parts.train.corpus.labels),
        "scale": asdict(parts.scale.settings),
        "front_end": asdict(parts.front_end),
    }
    save_network(network, folder / MODEL, extra=extra)
    return fitted


def load_recogniser(folder: Path) -> Recogniser:
    """Return the recogniser in a folder written by `train_recogniser`.

    Raises:
        CheckpointError: It is missing, broken, or no recogniser.
    """
    stored = load_network(folder)
    extra = stored.extra
    if not isinstance(stored.network, VGG16) or extra.get("role") != "recogniser":
        raise CheckpointError(folder, "is not a recogniser; expected a folder of servax train")
    try:
        if len(extra["labels"]) != stored.network.settings.classes:
            raise KeyError("labels")
        return Recogniser(
            stored.network,
            tuple(extra["labels"]),
            Scale(ScaleSettings(**extra["scale"])),
            FrontEndSettings(**extra["front_end"]),
        )
    except ServaxError as error:
        raise CheckpointError(folder / SETTINGS, str(error)) from None
    except (KeyError, TypeError):
        raise CheckpointError(
            folder / SETTINGS,
            "holds no scale, front-end and labels of a recogniser; train it again",
        ) from None


def train_purifier(
    parts: Parts,
    extractor: VGG16,
    network: FrameTransformerSettings,
    training: PurifierTraining,
    discriminator: DiscriminatorSettings,
    folder: Path,
    *,
    seed: int,
    settings: str,
    compute: Compute,
    progress: Any = None,
) -> Fitted:
    """Train P against D with a frozen extractor and leave the best P in ``folder/model``.

    The protected recogniser has no part in this: only the extractor's weights are used.
    """
    with global_seed(seed, "weights"):
        purifier_network: nn.Module = FrameTransformer(**asdict(network))
        trainer = PurifierTrainer(
            purifier_network,
            Discriminator(discriminator),
            feature_extractor(frozen(extractor), training.tap),
            parts.train,
            parts.validation,
            training,
            seed=seed,
            compute=compute,
        )
    fitted = fit(
        trainer, training.schedule(), folder, seed=seed, settings=settings, progress=progress
    )
    Purifier(purifier_network, parts.scale, parts.front_end).save_pretrained(folder / MODEL)
    return fitted


def epochs_note(progress: Progress) -> str:
    """Return what a progress bar says beside itself."""
    terms = [
        f"{name.removeprefix('validation/')} {value:.3f}"
        for name, value in progress.terms.items()
        if name in ("validation/uar", "validation/loss")
    ]
    return " ".join([f"epoch {progress.epoch + 1}/{progress.epochs}", *terms])
