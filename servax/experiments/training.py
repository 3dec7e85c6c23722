"""Training of recognisers and purifiers, from datasets to a folder with weights.

Adversarial training has a plain part, from which every objective goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from servax.corpora import Corpus, Fold
from servax.defences import (
    AdversarialTrainer,
    AdversarialTraining,
    EncoderTuner,
    EncoderTuning,
    Objective,
    Sounds,
)
from servax.errors import CheckpointError
from servax.features import (
    Dataset,
    Features,
    FrontEndSettings,
    ScaleKind,
    Scaling,
    extract,
    fit_scale,
)
from servax.models import (
    VGG16,
    Discriminator,
    DiscriminatorSettings,
    EncoderClassifier,
    NetworkName,
    Noise,
    RecogniserNetwork,
    SmoothedClassifier,
    SpeechEncoder,
    feature_extractor,
    frozen,
    new_restorer,
)
from servax.purifier import Preset, Purifier, PurifierTrainer, SurrogateTrainer, SurrogateTraining
from servax.recognition import MODEL, EncoderRecogniser, Recogniser, new_recogniser
from servax.training import (
    AS_IT_IS,
    ChosenHead,
    Compute,
    EncoderStatistics,
    Fitted,
    HeadTraining,
    Progress,
    RecogniserTrainer,
    RecogniserTraining,
    Schedule,
    Trainable,
    choose_head,
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

    def keep(self, network: RecogniserNetwork, folder: Path) -> None:
        """Leave a recogniser that was trained on the fold in ``folder/model``."""
        Recogniser.of(network, self.train, self.front_end).save_pretrained(folder / MODEL)


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
class Session:
    """Where one training runs: its folder, what it draws from, on which device."""

    folder: Path
    """Holds the checkpoint, which is resumed, the log and in the end the model."""
    seed: int
    """Seeds weights, batches and all else that is drawn."""
    settings: str
    """Text that identifies the training; a checkpoint of another is refused."""
    compute: Compute
    """Device and precision."""
    progress: Callable[[Progress], None] | None = None
    """Called after each step."""

    def fit(self, training: Trainable, schedule: Schedule) -> Fitted:
        """Train to the end of a schedule, as `servax.training.fit`."""
        return fit(
            training,
            schedule,
            self.folder,
            seed=self.seed,
            settings=self.settings,
            progress=self.progress,
        )


def train_recogniser(
    session: Session,
    parts: Parts,
    training: RecogniserTraining,
    *,
    width: int,
    network: NetworkName = "vgg16",
) -> Fitted:
    """Train a recogniser on a fold and leave its best weights in ``folder/model``.

    Raises:
        SettingError: `network` is not one of `RECOGNISERS`.
    """
    seed = session.seed
    model = new_recogniser(network, parts.train.classes, width, seed=seed)
    trainer = RecogniserTrainer(
        model, parts.train, parts.validation, training, seed=seed, compute=session.compute
    )
    fitted = session.fit(trainer, training.schedule())
    parts.keep(model, session.folder)
    return fitted


def train_encoder_recogniser(
    corpus: Corpus,
    fold: Fold,
    encoder: SpeechEncoder,
    training: HeadTraining,
    *,
    seed: int,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[EncoderRecogniser, ChosenHead]:
    """Return a recogniser whose head was trained on a fold, and how its penalty was chosen.

    The test speakers are not looked at; those of validation choose the penalty, then train too.

    Args:
        corpus: All utterances; what is heard of them is kept in the cache for every fold.
        fold: Who trains.
        encoder: What hears.
        training: How.
        seed: Draws the noisy copies.
        cache: Folder of the feature cache.
        progress: Is told (done, total) sounds.

    Raises:
        CorpusError: A class has no training utterance.
    """
    copies = training.copies(seed)
    found: tuple[list[Dataset], list[Dataset]] = ([], [])
    for number, copy in enumerate(copies):

        def tell(done: int, of: int, before: int = number) -> None:
            if progress is not None:
                progress(before * of + done, len(copies) * of)

        hearing = EncoderStatistics(encoder, copy)
        features = extract(corpus, hearing, folder=cache, progress=tell)
        for part, kept in zip((fold.train, fold.validation), found, strict=True):
            kept.append(Dataset(part, features, AS_IT_IS))
    chosen = choose_head(*found, training)
    speakers = map(str, [*fold.train.speakers, *fold.validation.speakers])
    network = EncoderClassifier(encoder, chosen.head)
    if training.vaccinate_db is not None:
        network = SmoothedClassifier(encoder, chosen.head, Noise(training.vaccinate_db))
    return EncoderRecogniser(network, corpus.labels, speakers), chosen


def tune_encoder(
    session: Session,
    recogniser: EncoderRecogniser,
    first: ChosenHead,
    fold: Fold,
    tuning: EncoderTuning,
) -> Fitted:
    """Tune the last layers of an encoder with its head, and leave both in ``folder/model``.

    Args:
        session: Where, and with which seed.
        recogniser: What `train_encoder_recogniser` made; its weights are moved.
        first: The head to begin with, that of the training speakers alone, so that the validation
            speakers, who are measured after each epoch, are new to it.
        fold: Who trains, and who is measured.
        tuning: How.

    Raises:
        CorpusError: A class has no training utterance.
        SettingError: The encoder has fewer layers.
    """
    network = recogniser.network
    network.head.load_state_dict(first.of_training.state_dict())
    parts = Sounds(fold.train), Sounds(fold.validation)
    tuner = EncoderTuner(network, *parts, tuning, seed=session.seed, compute=session.compute)
    fitted = session.fit(tuner, tuning.schedule())
    speakers = [str(speaker) for speaker in fold.train.speakers]
    made = EncoderRecogniser(network.eval(), recogniser.labels, speakers)
    made.save_pretrained(session.folder / MODEL, encoder=True)
    return fitted


def train_purifier(
    session: Session,
    parts: Parts,
    extractor: VGG16,
    preset: Preset,
    discriminator: DiscriminatorSettings,
) -> Fitted:
    """Train P with a frozen extractor and leave the best P in ``folder/model``.

    Against D, or, as `SurrogateTraining` says, with the extractor as the only surrogate. The
    protected recogniser has no part in this: only the extractor's weights are used.
    """
    training, seed, compute = preset.training, session.seed, session.compute
    speech = (parts.train, parts.validation)
    trainer: PurifierTrainer | SurrogateTrainer
    with global_seed(seed, "weights"):
        network = new_restorer(preset.network)
        if isinstance(training, SurrogateTraining):
            trainer = SurrogateTrainer(
                network, [extractor], *speech, training, seed=seed, compute=compute
            )
        else:
            trainer = PurifierTrainer(
                network,
                Discriminator(discriminator),
                feature_extractor(frozen(extractor), training.tap),
                *speech,
                training,
                seed=seed,
                compute=compute,
            )
    fitted = session.fit(trainer, training.schedule())
    heard = map(str, parts.train.corpus.speakers)
    Purifier(network, parts.scale, parts.front_end, heard).save_pretrained(session.folder / MODEL)
    return fitted


def start_adversarial(
    session: Session, parts: Parts, training: AdversarialTraining, *, width: int
) -> Fitted:
    """Train the plain part of an adversarial training and leave its state in ``folder/start.pt``.

    Without plain iterations that is the state of a fresh network.
    """
    trainer = _adversarial_trainer(session, parts, training, None, width)
    fitted = Fitted(best_epoch=-1, best=0.0, epochs=0)
    if trainer.epochs:
        fitted = session.fit(trainer, trainer.schedule())
    identity = _start_identity(session, parts, training, width)
    save_checkpoint(session.folder / START, {"settings": identity, "training": trainer.state()})
    return fitted


def train_adversarial(
    session: Session,
    parts: Parts,
    training: AdversarialTraining,
    objective: Objective,
    *,
    width: int,
    start: Path,
) -> Fitted:
    """Go on with `objective` from a plain part and leave the last weights in ``folder/model``.

    Args:
        session: Its seed is that of the plain part.
        parts: The fold that the plain part was trained on.
        training: Its schedule.
        objective: What to minimise.
        width: Width of its network.
        start: The ``start.pt`` that `start_adversarial` left.

    Raises:
        CheckpointError: `start` is missing, broken, or of another fold, width, seed or schedule.
    """
    state = load_checkpoint(start, settings=_start_identity(session, parts, training, width))
    if state is None:
        raise CheckpointError(
            start, "no such file; expected the plain part of an adversarial training"
        )
    trainer = _adversarial_trainer(session, parts, training, objective, width)
    trainer.load_state(state["training"])
    fitted = session.fit(trainer, trainer.schedule())
    parts.keep(trainer.network, session.folder)
    return fitted


def _adversarial_trainer(
    session: Session,
    parts: Parts,
    training: AdversarialTraining,
    objective: Objective | None,
    width: int,
) -> AdversarialTrainer:
    with global_seed(session.seed, "weights"):
        network = VGG16(parts.train.classes, width)
    return AdversarialTrainer(
        network,
        parts.train,
        parts.validation,
        objective,
        training,
        seed=session.seed,
        compute=session.compute,
    )


def _start_identity(
    session: Session, parts: Parts, training: AdversarialTraining, width: int
) -> str:
    """Return what decides the weights of a plain part, as text."""
    corpus = parts.train.corpus
    spoken = [*corpus.utterances["utterance"], *corpus.utterances["label"]]
    return json.dumps(
        {
            "width": width,
            "training": asdict(training),
            "seed": session.seed,
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
