"""Training of recognisers and purifiers, from datasets to a folder with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from servax.corpora import Fold
from servax.errors import CheckpointError, ServaxError, SettingError
from servax.features import (
    Dataset,
    Features,
    FrontEndSettings,
    ScaleKind,
    Scaling,
    fit_scale,
    make_scale,
)
from servax.models import (
    CRNN,
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    ResNet,
    RestorerSettings,
    feature_extractor,
    frozen,
    load_network,
    new_restorer,
    save_network,
)
from servax.models.storage import SETTINGS
from servax.pretrained import no_such_folder, resolve
from servax.purifier import (
    Purifier,
    PurifierTrainer,
    PurifierTraining,
    SurrogateTrainer,
    SurrogateTraining,
)
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
NetworkName = Literal["vgg16", "resnet", "crnn"]
"""Recognisers by the name that options and recipes give them."""
RecogniserNetwork = VGG16 | ResNet | CRNN
RECOGNISERS: Mapping[str, type[VGG16] | type[ResNet] | type[CRNN]] = {
    "vgg16": VGG16,
    "resnet": ResNet,
    "crnn": CRNN,
}


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


@dataclass(frozen=True)
class Recogniser:
    """A recogniser read from a folder, with what it was trained on."""

    network: RecogniserNetwork
    labels: tuple[str, ...]
    scale: Scaling
    front_end: FrontEndSettings
    speakers: tuple[str, ...] = ()
    """Training speakers; empty where that was not written down."""

    @property
    def extractor(self) -> VGG16:
        """Return the network as one whose features can be read.

        Raises:
            SettingError: It is not a VGG-16, the only one with taps.
        """
        if not isinstance(self.network, VGG16):
            given, expected = type(self.network).__name__, "a VGG16, which has taps for features"
            raise SettingError("extractor", given, expected)
        return self.network


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
    save_network(model, folder / MODEL, extra=recogniser_extra(parts.train, parts.front_end))
    return fitted


def new_recogniser(
    network: NetworkName, classes: int, width: int, *, seed: int
) -> RecogniserNetwork:
    """Return an untrained recogniser; the same seed gives the same weights.

    Raises:
        SettingError: `network` is not one of `RECOGNISERS`.
    """
    if network not in RECOGNISERS:
        raise SettingError.choice("network", network, RECOGNISERS)
    with global_seed(seed, "weights"):
        return RECOGNISERS[network](classes, width)


def load_recogniser(where: str | Path) -> Recogniser:
    """Return the recogniser in a folder written by `train_recogniser`, or a packaged one.

    Args:
        where: The folder, else a name of `servax.pretrained.names`.

    Raises:
        CheckpointError: It is missing, broken, or no recogniser.
    """
    folder = resolve(where)
    if not folder.is_dir():
        raise no_such_folder(where, "one of servax train", role="recogniser")
    stored = load_network(folder)
    extra = stored.extra
    if not isinstance(stored.network, RecogniserNetwork) or extra.get("role") != "recogniser":
        raise CheckpointError(folder, "is not a recogniser; expected a folder of servax train")
    try:
        if len(extra["labels"]) != stored.network.settings.classes:
            raise KeyError("labels")
        front_end = FrontEndSettings(**extra["front_end"])
        scale = make_scale(extra["scale"], mels=front_end.logmel.mels)
        speakers = tuple(str(speaker) for speaker in extra.get("speakers", ()))
        return Recogniser(stored.network, tuple(extra["labels"]), scale, front_end, speakers)
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


def recogniser_extra(train: Dataset, front_end: FrontEndSettings) -> dict[str, Any]:
    """Return what `load_recogniser` needs beside the weights.

    Args:
        train: What the recogniser was trained on.
        front_end: What made it.
    """
    return {
        "role": "recogniser",
        "labels": list(train.corpus.labels),
        "speakers": [str(speaker) for speaker in train.corpus.speakers],
        "scale": asdict(train.scale.settings),
        "front_end": asdict(front_end),
    }
