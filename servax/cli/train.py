"""``servax train recogniser | purifier | denoiser | adversarial``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from servax.cli.commands import part
from servax.cli.output import bar, note
from servax.corpora import COLUMN_SCHEMES, Corpus, FoldChoice, cache_folder, load
from servax.defences import (
    SCHEDULES,
    AdversarialTraining,
    DenoiserTraining,
    EncoderTuning,
    NoiseTraining,
    Objective,
    train_denoiser,
)
from servax.errors import SettingError
from servax.evaluation.suites import AttackGrid
from servax.experiments.recipe import ITERATED, SINGLE_STEP
from servax.experiments.training import (
    START,
    Parts,
    Session,
    fold_parts,
    start_adversarial,
    train_adversarial,
    train_encoder_recogniser,
    train_purifier,
    train_recogniser,
    tune_encoder,
)
from servax.features import FrontEnd, FrontEndSettings, extract
from servax.kinds import Precision, stored
from servax.models import DiscriminatorSettings, NetworkName, open_encoder
from servax.purifier import PurifierTraining, SurrogateTraining, preset as purifier_preset
from servax.recognition import MODEL, Recogniser
from servax.training import (
    LOG_NAME,
    Compute,
    Fitted,
    HeadTraining,
    Processes,
    Progress,
    RecogniserTraining,
    current,
    launch,
    read_log,
)


@dataclass(frozen=True)
class _Training(FoldChoice, Processes):
    """What every training is told; `train` does the work of one process."""

    _: KW_ONLY
    out: str
    """Folder for weights, checkpoint and log (-o for short); a checkpoint there is resumed."""
    seed: int = 0
    """Seeds weights, batches and what else is drawn; an extractor needs another than its target."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "float32"
    """float32, or bfloat16: matrix products are computed in it, which is faster where the machine
    has it (AMX, CUDA)."""

    def __call__(self) -> int:
        """Train, in all processes together."""
        kind = self.compute.resolve()  # a wrong device is refused before any work is done
        self.check()
        launch(self.train, part(Processes, self), device=kind, prepare=self.prepare)
        return 0

    def check(self) -> None:
        """Refuse options that do not go together."""

    def prepare(self) -> object:
        """Do what would be done by each process, before there are several."""
        return self.parts()

    def train(self) -> None:
        """Do the work of one process."""
        raise NotImplementedError

    @property
    def compute(self) -> Compute:
        """Device and precision of the training."""
        return Compute(device=self.device, precision=self.precision)

    def parts(self) -> Parts:
        """Return the datasets of the fold; every process of a training reads them anew."""
        corpus = load(self.corpus, self.root, scheme=self.scheme)
        fold, front_end = self.fold_of(corpus), FrontEndSettings()
        with bar("features") if current().main else nullcontext() as update:
            features = extract(
                corpus, FrontEnd(front_end), folder=cache_folder() / "features", progress=update
            )
        return fold_parts(fold, features, front_end)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield `out` to the main process; what the others write is thrown away."""
        if current().main:
            yield Path(self.out)
            return
        with tempfile.TemporaryDirectory(prefix="servax-") as folder:
            yield Path(folder)

    @contextmanager
    def session(
        self, folder: Path, what: str, settings: str, steps: int | None = None
    ) -> Iterator[Session]:
        """Yield a session whose progress is a bar; where the last epoch is short, of `steps`."""
        with bar(what) if current().main else nullcontext() as update:

            def progress(at: Progress) -> None:
                if update is not None:
                    update(at.epoch * at.steps + at.step, steps or at.epochs * at.steps)

            # Trainings begun before there was a choice are resumed.
            other = "" if self.precision == "float32" else f" {self.precision}"
            yield Session(folder, self.seed, settings + other, self.compute, progress)

    def fitted(self, what: str, train: Callable[[Session], Fitted], settings: str = "") -> None:
        """Train into ``out/model`` with a bar, and say what came of it."""
        with self.folder() as folder, self.session(folder, what, settings) as session:
            fitted = train(session)
        term, digits = {"recogniser": ("UAR", 3), "denoiser": ("loss", 5)}.get(what, ("loss", 4))
        _say(
            f"validation {term} {fitted.best:.{digits}f} in epoch {fitted.best_epoch + 1}: "
            f"{Path(self.out) / MODEL}"
        )


NEEDED = {
    "layers": "encoder",
    "draws": "encoder",
    "vaccinate": "encoder",
    "tune": "encoder",
    "attacked": "tune",
}
"""Options that mean nothing without another."""
SHOWN = {"as it is": "validation/clean", "attacked": "validation/attacked"}
"""What is said of the validation speakers after a tuning."""


@dataclass(frozen=True)
class TrainRecogniser(_Training):
    """Train a recogniser on all speakers but one group (test) and the next (validation).

    With --encoder only a head is trained, and the validation speakers, once they have chosen how
    strongly it is penalised, train too.
    """

    _: KW_ONLY
    out: str = "runs/recogniser"
    encoder: str | None = None
    """Folder or Hugging Face id of a speech encoder (openai/whisper-tiny.en, wav2vec 2.0, HuBERT,
    WavLM) that hears the sound itself, with a small head behind it; layers and draws belong to it.
    Default trains a network of log-Mels, which network, width and epochs belong to."""
    layers: int | None = None
    """How many layers of the encoder are used; default three quarters of them."""
    draws: int | None = None
    """Noisy copies of each utterance (5 to 40 dB) that the head is trained on too; default 2, with
    --vaccinate 6."""
    vaccinate: float | None = None
    """With --encoder: level in dB of each sound above white noise that the recogniser adds itself
    and is trained for, 15 for example, so that attacks must be louder. Each answer is the mean of
    8 draws: it costs 8 passes, and differs a little each time. Default none."""
    tune: int | None = None
    """With --encoder: how many of the last layers that are used are tuned with the head, for 12
    epochs, with all of them what lies below too; the tuned encoder is saved beside the head.
    Default none: the encoder stays as it is."""
    attacked: float | None = None
    """With --tune: the tuning hears attacks too, down to this signal-to-noise ratio in dB and 15 dB
    above, 35 for example; with --vaccinate through its noise. Three steps each: it takes five times
    as long. Default none."""
    network: NetworkName = "vgg16"
    """vgg16 (the paper's; extractors must be one), resnet (ResNet-18) or crnn."""
    width: int = 64
    """Channels of the first block; 64 is the published VGG-16 and ResNet."""
    epochs: int = 60
    """Most epochs."""

    def check(self) -> None:
        """Refuse a number of epochs that is none."""
        RecogniserTraining(epochs=self.epochs)
        _ = self.head
        for name, needed in NEEDED.items():
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise SettingError(name, getattr(self, name), f"none without --{needed}")
        if self.tuning is not None and self.size > 1:
            raise SettingError("tune", self.tune, "none with several devices: one process tunes")

    @property
    def tuning(self) -> EncoderTuning | None:
        """How the encoder is tuned; none where it stays as it is."""
        if self.tune is None:
            return None
        return EncoderTuning(layers=self.tune, attack_db=self.attacked)

    @property
    def head(self) -> HeadTraining:
        """How the head of a speech encoder is trained."""
        given: dict[str, Any] = {} if self.draws is None else {"draws": self.draws}
        if self.vaccinate is None:
            return HeadTraining(**given)
        return HeadTraining.vaccinated(self.vaccinate, **given)

    def prepare(self) -> object:
        """Do what would be done by each process; a head is trained in one."""
        return None if self.encoder else super().prepare()

    def train(self) -> None:
        """Train the recogniser in one process."""
        if self.encoder is not None:
            if current().main:
                self.train_head(self.encoder)
            return
        parts, training = self.parts(), RecogniserTraining(epochs=self.epochs)
        # The default has no name here: a training begun before there were others is resumed.
        other = {} if self.network == "vgg16" else {"network": self.network}
        settings = _identity(
            parts.train.corpus, width=self.width, training=asdict(training), seed=self.seed, **other
        )
        train = partial(
            train_recogniser,
            parts=parts,
            training=training,
            width=self.width,
            network=self.network,
        )
        self.fitted("recogniser", train, settings)

    def train_head(self, place: str) -> None:
        """Train the head of a speech encoder."""
        encoder = open_encoder(place, layers=self.layers)
        corpus = load(self.corpus, self.root, scheme=self.scheme)
        fold, tuning = self.fold_of(corpus), self.tuning
        with bar("encoder") as update:
            recogniser, chosen = train_encoder_recogniser(
                corpus,
                fold,
                encoder,
                self.head,
                seed=self.seed,
                cache=cache_folder() / "features",
                progress=update,
            )
        if tuning is not None:
            how = {"head": asdict(self.head), "tuning": asdict(tuning), "seed": self.seed}
            settings = _identity(fold.train, encoder=encoder.sha256, **how)
            out = Path(self.out)
            with self.session(out, "tuning", settings) as session:
                tune_encoder(session, recogniser, chosen, fold, tuning)
            last = read_log(out / LOG_NAME)[-1]
            told = [f"{name} {last[key]:.3f}" for name, key in SHOWN.items() if key in last]
            _say(f"validation UAR {', '.join(told)}, after the last epoch: {out / MODEL}")
            return
        recogniser.save_pretrained(Path(self.out) / MODEL)
        _say(
            f"validation UAR {chosen.uar:.3f} with penalty {chosen.penalty:g}, then trained on "
            f"those speakers too: {Path(self.out) / MODEL}"
        )


@dataclass(frozen=True)
class TrainPurifier(_Training):
    """Train a purifier with a feature extractor; the model it will protect has no part in it."""

    extractor: str
    """Folder of a recogniser trained by `servax train recogniser` on the same fold."""
    _: KW_ONLY
    out: str = "runs/purifier"
    preset: str = "ssad"
    """ssad (predicts the spectrogram), ssad-residual (predicts a change) or ssad-plus (a U-Net
    behind shuffled texture, trained with the extractor as a surrogate)."""
    epochs: int | None = None
    """Most epochs; default the preset's: 60 with patience 5, of ssad-plus 8."""
    ssa_steps: int | None = None
    """Ascent steps of the augmentation; default 10, each of .01 on the [0, 1] scale (.8 dB); of
    ssad-plus 1 to 4, drawn anew for each batch."""

    @property
    def training(self) -> PurifierTraining | SurrogateTraining:
        """The preset's training with what is given in its place."""
        training = purifier_preset(self.preset).training
        if self.ssa_steps is not None:
            training = replace(training, ssa=replace(training.ssa, steps=self.ssa_steps))  # type: ignore[arg-type]
        return training if self.epochs is None else replace(training, epochs=self.epochs)

    def check(self) -> None:
        """Refuse a preset that is none, and settings outside their rules."""
        _ = self.training

    def prepare(self) -> tuple[Parts, Recogniser]:
        """Return the datasets of the fold and the extractor that was trained on it."""
        parts = self.parts()
        found = Recogniser.from_pretrained(Path(self.extractor))
        _ = found.extractor  # another network than VGG-16 is refused before any work is done
        if found.scale.settings != parts.scale.settings or found.front_end != parts.front_end:
            raise SettingError(
                "extractor",
                self.extractor,
                "one trained on the same fold, with the same scale and front-end",
            )
        return parts, found

    def train(self) -> None:
        """Train the purifier in one process."""
        parts, found = self.prepare()
        preset = replace(purifier_preset(self.preset), training=self.training)
        settings = _identity(
            parts.train.corpus,
            network=asdict(preset.network),
            training=stored(preset.training),
            extractor=str(Path(self.extractor).resolve()),
            seed=self.seed,
        )
        train = partial(
            train_purifier,
            parts=parts,
            extractor=found.extractor,
            preset=preset,
            discriminator=DiscriminatorSettings(),
        )
        self.fitted("purifier", train, settings)


@dataclass(frozen=True)
class TrainDenoiser(_Training):
    """Train a purifier's network on Gaussian noise alone: a baseline, and taken as a purifier."""

    _: KW_ONLY
    out: str = "runs/denoiser"
    noise: float = 0.03
    """Standard deviation of the noise, on the [0, 1] scale (.03 is 2.4 dB)."""
    preset: str = "ssad"
    """The network: ssad (predicts the spectrogram) or ssad-residual (predicts a change)."""
    epochs: int = 60
    """Most epochs; patience is 5."""

    def check(self) -> None:
        """Refuse noise that is none, and a preset that is none."""
        if not 0 < self.noise <= 1:
            raise SettingError("noise", self.noise, "a number in (0, 1], on the [0, 1] scale")
        purifier_preset(self.preset)
        DenoiserTraining(standard_deviation=self.noise, epochs=self.epochs)

    def train(self) -> None:
        """Train the denoiser in one process."""
        parts = self.parts()
        training = DenoiserTraining(standard_deviation=self.noise, epochs=self.epochs)

        def train(session: Session) -> Fitted:
            return train_denoiser(
                parts.train,
                parts.validation,
                training,
                session.folder,
                network=purifier_preset(self.preset).network,
                front_end=parts.front_end,
                seed=session.seed,
                compute=session.compute,
                progress=session.progress,
            )

        self.fitted("denoiser", train)


@dataclass(frozen=True)
class TrainAdversarial(_Training):
    """Train on adversarial inputs (the baseline of Ren et al. 2020, PGD-AT, TRADES) or on noise."""

    _: KW_ONLY
    out: str = "runs/adversarial"
    """Folder for <name>/model of each model and the plain part that they share, in start (-o for
    short); checkpoints there are resumed."""
    objective: Literal["vanilla", "similarity", "pgd-at", "trades", "smoothed"] = "similarity"
    """vanilla and similarity (Ren et al. 2020), pgd-at (Madry et al. 2018) or trades (Zhang et al.
    2019); or smoothed, which hears noise instead of attacks (Cohen et al. 2019)."""
    noise: float | None = None
    """Standard deviation of the noise of smoothed, on the [0, 1] scale; default .1 (8 dB). What it
    was trained for is asked for: audit the model with --defences gaussian-noise:0.1."""
    epsilon: float | None = None
    """Size of FGSM in training for vanilla and similarity, on the [0, 1] scale (.003 is .24 dB);
    default trains one model for each of .003, .006, .009, .012, .015."""
    step: float | None = None
    """Step of PGD in training for pgd-at and trades, on the [0, 1] scale; default .005."""
    radius: float | None = None
    """Radius of PGD for pgd-at and trades, on the [0, 1] scale; default .015 (1.2 dB)."""
    steps: int | None = None
    """Steps of PGD for pgd-at and trades; default 5."""
    schedule: Literal["ren2020", "short"] = "ren2020"
    """ren2020 (10 000 iterations, 1 000 of them plain) or short (392, 280 of them plain, with
    masks, shifts, class weights and a falling learning rate; for a CPU)."""
    iterations: int | None = None
    """Iterations in all; the plain part keeps its share. Default is the schedule's."""
    width: int = 64
    """Channels of the first block; 64 is the published network."""

    def check(self) -> None:
        """Refuse an option that the objective does not have, and iterations that are none."""
        _ = self.objectives, self.training

    @property
    def objectives(self) -> list[Objective]:
        """The objectives asked for: one for each ε of the paper by default."""
        name, walk = self.objective, ("step", "radius", "steps")
        given = {key: value for key in walk if (value := getattr(self, key)) is not None}
        if name == NoiseTraining.kind:
            if given or self.epsilon is not None:
                key, value = next(iter((given or {"epsilon": self.epsilon}).items()))
                raise SettingError(key, value, f"none with {name}, which makes no attack")
            return [NoiseTraining(0.1 if self.noise is None else self.noise)]
        if self.noise is not None:
            raise SettingError("noise", self.noise, f"none with {name}; use smoothed")
        if name in ITERATED:
            if self.epsilon is not None:
                expected = f"none with {name}, whose reach is given as --radius"
                raise SettingError("epsilon", self.epsilon, expected)
            return [ITERATED[name](**given)]
        if given:
            key, value = next(iter(given.items()))
            expected = f"none with {name}, which takes one step of --epsilon; use pgd-at or trades"
            raise SettingError(key, value, expected)
        sizes = AttackGrid().epsilons if self.epsilon is None else (self.epsilon,)
        return [SINGLE_STEP[name](size) for size in sizes]

    @property
    def training(self) -> AdversarialTraining:
        """The schedule; with other iterations its plain part keeps its share of them."""
        training, iterations = SCHEDULES[self.schedule], self.iterations
        if iterations is None:
            return training
        if iterations < 1:
            raise SettingError("iterations", iterations, "a whole number of at least 1")
        plain = iterations * training.plain_iterations // training.iterations
        return replace(training, iterations=iterations, plain_iterations=plain)

    def train(self) -> None:
        """Train the plain part into ``out/start``, then each model into ``out/<name>/model``."""
        parts, training, objectives = self.parts(), self.training, self.objectives
        told = {"width": self.width, "training": asdict(training), "seed": self.seed}
        given: dict[str, Any] = {"parts": parts, "training": training, "width": self.width}
        plain = training.plain_iterations
        with self.folder() as folder:
            start, settings = folder / "start", _identity(parts.train.corpus, **told)
            with self.session(start, "plain part", settings, plain) as session:
                start_adversarial(session, **given)
            for each in objectives:
                name, rest = each.name, training.iterations - plain
                settings = _identity(parts.train.corpus, objective=asdict(each), name=name, **told)
                with self.session(folder / name, name, settings, rest) as session:
                    train_adversarial(session, objective=each, start=start / START, **given)
        for each in objectives if current().main else ():
            last = read_log(Path(self.out) / each.name / LOG_NAME)[-1]
            _say(
                f"validation UAR {last['validation/uar']:.3f} after {last['train/iteration']:.0f} "
                f"iterations: {Path(self.out) / each.name / MODEL}"
            )


def _identity(corpus: Corpus, **settings: Any) -> str:
    """Return the text that tells a run on these training speakers from others (`fit`)."""
    told: dict[str, Any] = {"train": [*corpus.utterances["utterance"]]}
    if corpus.scheme in COLUMN_SCHEMES:
        # The same utterances with other labels; the schemes of emotions need no name, since
        # trainings begun before there were others are resumed.
        told["scheme"] = corpus.scheme
    return json.dumps({**told, **settings}, sort_keys=True, default=list)


def _say(sentence: str) -> None:
    """Say something, in one of several processes that train together."""
    if current().main:
        note(sentence)
