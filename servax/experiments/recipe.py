"""An experiment is data: a recipe is a YAML file of frozen dataclasses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from servax.corpora import SCHEMES, Groups, check_groups
from servax.defences import (
    AdversarialTraining,
    EncoderTuning,
    GaussianNoise,
    MadryPGD,
    MeanFilter,
    NoiseTraining,
    Objective,
    Quantise,
    Similarity,
    Trades,
    Vanilla,
)
from servax.errors import RecipeError, ServaxError, SettingError
from servax.evaluation.engine import MOST_DRAWS
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.sound_grid import SoundGrid
from servax.evaluation.suites import AttackGrid
from servax.experiments.reading import build, read_yaml
from servax.features import FrontEnd, FrontEndSettings
from servax.features.cache import Hearing
from servax.kinds import COUNT, Choice, Rule, Rules, check_types
from servax.models import RECOGNISERS, DiscriminatorSettings, NetworkName, open_encoder
from servax.purifier import PRESETS, Preset, PurifierTraining, SurrogateTraining
from servax.stages import Resources
from servax.training import Compute, EncoderStatistics, HeadTraining, RecogniserTraining

LARGEST_COUNT = 100_000
"""More speakers and texts than any corpus has."""
SMALLEST_INPUT = 32
"""VGG-16 halves its input five times."""
TWIN = "twin"
"""A recogniser that differs from the target by its seed alone; transfer attacks start at it."""
TARGET = "target"
"""The attacked recogniser."""
TAKEN = (UNDEFENDED, TARGET, TWIN)
"""What no defence may be called."""
LARGEST_SEED = 2**63
"""Records keep seeds in 64 bits."""
Made = Callable[[float], Objective]
SINGLE_STEP: dict[str, Made] = {"vanilla": Vanilla, "similarity": Similarity}
"""Objectives of [18], one model for each ε of its FGSM."""
ITERATED = {"pgd-at": MadryPGD, "trades": Trades}
"""Objectives whose inner attack is a PGD."""
OBJECTIVES = (*SINGLE_STEP, *ITERATED, NoiseTraining.kind)


@dataclass(frozen=True)
class CorpusChoice:
    """Which recordings, and how they are labelled."""

    name: str
    """A known corpus (`servax corpus list`), or the path of a CSV or Parquet manifest."""
    root: str | None = None
    """Folder of the corpus; default `$SERVAX_DATA/<name>`."""
    scheme: str = "four"
    """What is the label: `native` (the corpus' own), `four` (emotions), `speaker` or `gender`."""
    seed: int = 0
    """Seed of the synthetic corpus; others have no use for it."""

    RULES: ClassVar[Rules] = {
        "scheme": Choice(SCHEMES),
        "seed": Rule("a whole number in [0, 2**63)", lambda seed: 0 <= seed < LARGEST_SEED),
    }

    def __post_init__(self) -> None:
        if not self.name:
            raise SettingError("name", self.name, "a known corpus or the path of a manifest")
        check_types(self)


@dataclass(frozen=True)
class Controls:
    """Cheap input transforms, scored as controls beside the purifiers."""

    gaussian_noise: float = 0.02
    """Standard deviation of the noise, on the [0, 1] scale."""
    mean_filter: int = 3
    """Side of the mean filter, in Mel bins and frames."""
    quantise_bits: tuple[int, ...] = (8, 4)
    """Bits of each quantisation."""

    RULES: ClassVar[Rules] = {
        "gaussian_noise": Rule("a number in (0, 1]", lambda deviation: 0 < deviation <= 1),
        "mean_filter": Rule("an odd whole number", lambda side: side >= 1 and side % 2 == 1),
    }

    def __post_init__(self) -> None:
        check_types(self)
        once = len(set(self.quantise_bits)) == len(self.quantise_bits)
        if not (once and all(1 <= bits <= 16 for bits in self.quantise_bits)):
            raise SettingError(
                "quantise_bits", list(self.quantise_bits), "whole numbers in [1, 16], each once"
            )

    def made(self) -> dict[str, tuple[Any, Callable[[torch.Generator], nn.Module]]]:
        """Return what decides each control and what makes it, by its name in records."""
        quantised = {
            f"quantise-{bits}": (f"quantise-{bits}", lambda _, bits=bits: Quantise(bits))
            for bits in self.quantise_bits
        }
        return {
            "gaussian-noise": (self.gaussian_noise, partial(GaussianNoise, self.gaussian_noise)),
            "mean-filter": (self.mean_filter, lambda _: MeanFilter(self.mean_filter)),
            **quantised,
        }


@dataclass(frozen=True)
class Variant:
    """A purifier that differs from its preset in more than its schedule: an ablation."""

    preset: str
    """The preset whose network it has."""
    training: PurifierTraining
    """How it is trained; what is not given is as in the paper, not as in the preset."""

    def __post_init__(self) -> None:
        varied = [name for name in PRESETS if isinstance(PRESETS[name].training, PurifierTraining)]
        if self.preset not in varied:
            raise SettingError.choice("preset", self.preset, varied)


@dataclass(frozen=True)
class Adversarial:
    """Adversarially trained recognisers to compare with: the baseline [18] and stronger ones."""

    objectives: tuple[str, ...] = ()
    """Of `vanilla`, `similarity` (both [18]: one model per ε), `pgd-at`, `trades` and `smoothed`
    (one model per noise; it hears noise instead of attacks); none at all."""
    epsilons: tuple[float, ...] = AttackGrid().epsilons
    """ε of the FGSM that `vanilla` and `similarity` train with, on the [0, 1] scale."""
    training: AdversarialTraining = field(default_factory=AdversarialTraining)
    """Their schedule; the default is [18]'s."""
    pgd: MadryPGD = field(default_factory=MadryPGD)
    """The inner attack of `pgd-at`."""
    trades: Trades = field(default_factory=Trades)
    """The inner attack and the weight of `trades`."""
    noises: tuple[float, ...] = (0.1,)
    """Standard deviations of the noise of `smoothed`, on the [0, 1] scale (.1 is 8 dB)."""

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise SettingError.choice("objectives", name, OBJECTIVES)
        for key in ("objectives", "epsilons", "noises"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise SettingError(key, list(values), "each once")
            if not values and key != "objectives":
                raise SettingError(key, [], "at least one size")
        self.models()

    def models(self) -> dict[str, Objective]:
        """Return the objective of each model by the name of the defence."""
        chosen: list[Objective] = []
        for name in self.objectives:
            if name in SINGLE_STEP:
                chosen += [SINGLE_STEP[name](epsilon) for epsilon in self.epsilons]
            elif name == NoiseTraining.kind:
                chosen += map(NoiseTraining, self.noises)
            else:
                chosen.append(self.pgd if name == "pgd-at" else self.trades)
        return {objective.name: objective for objective in chosen}


@dataclass(frozen=True)
class Experiment:
    """What all recipes say: who speaks, who is held out, with which seeds, on what machine."""

    name: str
    """Name of the run: letters, digits, `-` and `_`."""
    corpus: CorpusChoice
    """The recordings."""
    groups: Groups = 6
    """Into how many groups the speakers are divided, each held out once; or each `speaker`, each
    `text`, or the `official` split."""
    held_out: tuple[int, ...] | None = None
    """Which groups are held out, from 1; none means all."""
    seeds: tuple[int, ...] = (0,)
    """Each seeds weights, batches and distortions of a run of its own over all folds."""
    batch_size: int = 16
    """Utterances attacked together."""
    compute: Compute = field(default_factory=Compute)
    """Device and precision of the training."""
    resources: Resources = field(default_factory=Resources)
    """What each stage takes of a machine or a cluster."""

    RULES: ClassVar[Rules] = {"batch_size": COUNT}

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.name):
            raise SettingError("name", self.name, "1 to 64 letters, digits, '-' and '_'")
        check_groups(self.groups, self.corpus.scheme)
        if isinstance(self.groups, str):
            self.folds(LARGEST_COUNT)  # how many speakers or texts there are is known later
        elif self.groups < 3:
            raise SettingError("groups", self.groups, "at least 3: test, validation, training")
        else:
            self.folds(self.groups)
        once = len(set(self.seeds)) == len(self.seeds)
        if not (self.seeds and once and all(0 <= seed < LARGEST_SEED for seed in self.seeds)):
            expected = "whole numbers in [0, 2**63), at least one and each once"
            raise SettingError("seeds", list(self.seeds), expected)
        check_types(self)

    def hearing(self) -> Hearing:
        """Return what is computed of each utterance, once for all folds."""
        raise NotImplementedError

    def folds(self, count: int) -> tuple[int, ...]:
        """Return which of `count` folds are run, from 0.

        Raises:
            SettingError: `held_out` names one that is not among them.
        """
        if self.held_out is None:
            return tuple(range(count))
        inside = all(1 <= group <= count for group in self.held_out)
        once = len(set(self.held_out)) == len(self.held_out)
        if not (self.held_out and inside and once):
            expected = f"groups from 1 to {count}, each once, or null for all"
            raise SettingError("held_out", list(self.held_out), expected)
        return tuple(group - 1 for group in self.held_out)


@dataclass(frozen=True)
class Recipe(Experiment):
    """All that decides the figures of a run on log-Mel."""

    width: int = 64
    """Channels of the first block of every recogniser; 64 is the published VGG-16."""
    network: NetworkName = "vgg16"
    """The target: `vgg16`, `resnet` or `crnn`; extractor and `adversarial` are VGG-16 always."""
    front_end: FrontEndSettings = field(default_factory=FrontEndSettings)
    """From waveform to log-Mel."""
    scale: Literal["window", "z-score"] = "window"
    """How dB become [0, 1]: one `window` for all bins, or each bin by its mean and sd ([18])."""
    window_db: float = 80.0
    """Width of the dB window that is mapped to [0, 1]; of no use to `z-score`."""
    recogniser: RecogniserTraining = field(default_factory=RecogniserTraining)
    """Training of the target and, with another seed, of the extractor."""
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    """D."""
    purifiers: dict[str, PurifierTraining | SurrogateTraining | None] = field(
        default_factory=lambda: dict.fromkeys(("ssad", "ssad-residual"))
    )
    """Purifier presets and, where it differs from the preset's, their training."""
    variants: dict[str, Variant] = field(default_factory=dict)
    """Ablations by name, which begins with the preset's: `ssad-no-gan`."""
    adversarial: Adversarial = field(default_factory=Adversarial)
    """Adversarially trained recognisers."""
    controls: Controls = field(default_factory=Controls)
    """Input transforms."""
    attacks: AttackGrid = field(default_factory=AttackGrid)
    """Strengths of the attacks."""

    RULES: ClassVar[Rules] = {
        "scale": Choice(("window", "z-score")),
        "network": Choice(RECOGNISERS),
        "width": Rule("a whole number in [1, 1024]", lambda width: 1 <= width <= 1024),
        "window_db": Rule("a width above 0 dB", lambda width: 0 < width < math.inf),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_purifiers()

    def _check_purifiers(self) -> None:
        if not self.purifiers:
            raise SettingError("purifiers", self.purifiers, f"at least one of {', '.join(PRESETS)}")
        for name in self.purifiers:
            if name not in PRESETS:
                raise SettingError.choice("purifiers", name, PRESETS)
            # Said now, not when the recogniser has been trained for hours.
            network = PRESETS[name].network
            given, expected = self.front_end.logmel.mels, getattr(network, "mels", None)
            if expected not in (None, given):
                raise SettingError(
                    "front_end.logmel.mels", given, f"{expected}, the size of a token of {name}"
                )
            kind, training = type(PRESETS[name].training), self.purifiers[name]
            if not isinstance(training, kind | None):
                raise SettingError(f"purifiers.{name}", type(training).__name__, kind.__name__)
        for name, variant in self.variants.items():
            if not re.fullmatch(rf"{re.escape(variant.preset)}-[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                expected_name = f"the preset, '-' and a word, such as {variant.preset}-no-gan"
                raise SettingError("variants", name, expected_name)
            if name in PRESETS:
                raise SettingError("variants", name, "a name that is not a preset's")
        if self.front_end.frames < SMALLEST_INPUT:
            raise SettingError(
                "front_end.frames", self.front_end.frames, f"at least {SMALLEST_INPUT} for VGG-16"
            )

    def hearing(self) -> FrontEnd:
        """Return what is computed of each utterance, once for all folds."""
        return FrontEnd(self.front_end)

    def shortened(self, *, steps: int, epochs: int) -> Recipe:
        """Return a miniature of the run: so many epochs, and steps in each and of each attack."""

        def short(training: Any) -> Any:
            return replace(training, epochs=epochs, patience=epochs)

        adversarial = self.adversarial
        plain = steps * epochs if adversarial.training.plain_iterations else 0
        rest = plain + steps * epochs
        return replace(
            self,
            held_out=None,
            seeds=self.seeds[:1],
            recogniser=short(self.recogniser),
            purifiers={name: short(self.chosen[name].training) for name in self.purifiers},
            variants={
                name: replace(each, training=short(each.training))
                for name, each in self.variants.items()
            },
            adversarial=replace(
                adversarial,
                epsilons=adversarial.epsilons[:1],
                noises=adversarial.noises[:1],
                training=replace(adversarial.training, plain_iterations=plain, iterations=rest),
            ),
            attacks=replace(self.attacks, steps=steps, adaptive_steps=steps),
        )

    @property
    def largest_batch(self) -> int:
        """Utterances of the largest batch of any training."""
        trainings = [each.training for each in self.chosen.values()]
        sizes = [
            each.batch_size for each in (*trainings, self.recogniser, self.adversarial.training)
        ]
        return max(sizes)

    @property
    def defences(self) -> tuple[str, ...]:
        """Names of the defences in records, the bare target not among them."""
        return (*self.controls.made(), *self.adversarial.models(), *self.purifiers, *self.variants)

    @property
    def chosen(self) -> dict[str, Preset]:
        """Network and training of each purifier, variants included, by name."""
        chosen = {name: (name, training) for name, training in self.purifiers.items()}
        chosen |= {name: (each.preset, each.training) for name, each in self.variants.items()}
        return {
            name: replace(PRESETS[preset], training=training) if training else PRESETS[preset]
            for name, (preset, training) in chosen.items()
        }


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe(Experiment):
    """All that decides the figures of a run on sound, with a recogniser on a speech encoder."""

    encoder: str
    """Folder or hub id of the encoder, such as `openai/whisper-tiny.en`."""
    layers: int | None = None
    """How many of its layers are weighed; none is three quarters of them."""
    head: HeadTraining = field(default_factory=HeadTraining)
    """Training of the target's head and, with another seed, of the twin that transfer starts at."""
    rivals: dict[str, HeadTraining] = field(default_factory=dict)
    """Recognisers whose training differs, by name; they take the target's place."""
    tunings: dict[str, EncoderTuning] = field(default_factory=dict)
    """How the encoder of a rival is tuned with its head, by the rival's name; others leave it as
    it is."""
    defences: dict[str, str] = field(default_factory=dict)
    """What stands before the target, by name, as `servax audit --defences` takes it."""
    surrogates: dict[str, str] = field(default_factory=dict)
    """Recognisers beside the twin that transfer starts at, by name: a folder or a packaged one."""
    draws: int = 8
    """Draws of a random defence whose mean is one answer."""
    attack_draws: int = MOST_DRAWS
    """Most draws whose mean is one gradient of an attack on a random system."""
    seconds: float = 4.0
    """How much of each utterance is heard, in s: its middle; a shorter one is repeated."""
    utterances: int | None = None
    """How many of each held-out group are heard, classes and speakers in equal shares; all."""
    attacks: SoundGrid = field(default_factory=SoundGrid)
    """Strengths of the attacks."""

    RULES: ClassVar[Rules] = {
        "seconds": Rule("a length in [.05, 30] s", lambda seconds: 0.05 <= seconds <= 30),
        "draws": COUNT,
        "attack_draws": COUNT,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("layers", "utterances"):
            if getattr(self, key) is not None:
                COUNT.check(key, getattr(self, key))
        if self.head.draws == 0:
            expected = "at least 1: the twin of the target differs by its noisy copies alone"
            raise SettingError("head.draws", 0, expected)
        for key in ("rivals", "defences", "surrogates"):
            for name in getattr(self, key):
                taken = name in TAKEN or (key != "rivals" and name in self.rivals)
                if taken or not re.fullmatch(r"\w[\w.+-]*", name):
                    expected = f"letters, digits, '.', '_', '+' and '-'; not {', '.join(TAKEN)}"
                    raise SettingError(key, name, f"a name of its own of {expected}")
        for name in self.tunings:
            Choice(self.rivals).check("tunings", name)

    def hearing(self) -> EncoderStatistics:
        """Return what is computed of each utterance, once for all folds."""
        return EncoderStatistics(open_encoder(self.encoder, layers=self.layers))

    @property
    def largest_batch(self) -> int:
        """Utterances of the largest batch of any training; a head is fitted to all at once."""
        return self.batch_size

    def shortened(self, *, steps: int, epochs: int) -> EncoderRecipe:
        """Return a miniature of the run, with so many steps of each attack, of the first seed."""
        few = {name: min(steps, getattr(self.attacks, name)) for name in SoundGrid.EFFORTS}
        return replace(
            self,
            held_out=None,
            seeds=self.seeds[:1],
            tunings={name: replace(each, epochs=epochs) for name, each in self.tunings.items()},
            attacks=replace(self.attacks, **few),
        )


AnyRecipe = Recipe | EncoderRecipe
"""What `servax run` does."""


def load_recipe(path: str | Path) -> AnyRecipe:
    """Return the recipe in a YAML file; one that names an `encoder` is on sound.

    Raises:
        RecipeError: The file is missing, is not YAML, has an unknown key (the nearest known one is
            named), or a value of the wrong kind or outside its rule.
    """
    path = Path(path)
    given = read_yaml(path)
    try:
        return recipe_of(given)
    except ServaxError as error:
        raise RecipeError(path, str(error)) from None


def recipe_of(given: dict[Any, Any]) -> AnyRecipe:
    """Return the recipe that keys and values describe.

    Raises:
        ServaxError: See `load_recipe`.
    """
    if "encoder" in given:
        return build(EncoderRecipe, given)
    return build(Recipe, _with_trainings(given))


def _with_trainings(given: dict[Any, Any]) -> dict[Any, Any]:
    """Return a recipe's keys and values with each preset's training as one of its own kind.

    Presets are trained in different ways, and `epochs` alone would not say which is meant.
    """
    purifiers = given.get("purifiers")
    if not isinstance(purifiers, dict):
        return given
    built = {
        name: build(type(PRESETS[name].training), training, f"purifiers.{name}.")
        if isinstance(training, dict) and name in PRESETS
        else training
        for name, training in purifiers.items()
    }
    return {**given, "purifiers": built}
