"""An experiment is data: a recipe is a YAML file of frozen dataclasses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from servax.corpora import Groups, check_groups
from servax.errors import RecipeError, ServaxError, SettingError
from servax.evaluation.suites import AttackGrid
from servax.experiments.building import build
from servax.experiments.choices import (
    LARGEST_SEED,
    Adversarial,
    Controls,
    CorpusChoice,
    Variant,
)
from servax.features import FrontEndSettings
from servax.models import RECOGNISERS, DiscriminatorSettings, NetworkName
from servax.purifier import PRESETS, Preset, PurifierTraining, SurrogateTraining
from servax.stages import Resources
from servax.training import Compute, RecogniserTraining

MAX_BYTES = 1_000_000
LARGEST_COUNT = 100_000
"""More speakers and texts than any corpus has."""
SMALLEST_INPUT = 32
"""VGG-16 halves its input five times."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the figures of a run."""

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
    batch_size: int = 16
    """Utterances attacked together."""
    compute: Compute = field(default_factory=Compute)
    """Device and precision of the training."""
    resources: Resources = field(default_factory=Resources)
    """What each stage takes of a machine or a cluster."""

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
        self._check_seeds()
        if self.scale not in ("window", "z-score"):
            raise SettingError.choice("scale", self.scale, ("window", "z-score"))
        if self.network not in RECOGNISERS:
            raise SettingError.choice("network", self.network, RECOGNISERS)
        if not 1 <= self.width <= 1024:
            raise SettingError("width", self.width, "a whole number in [1, 1024]")
        if not (math.isfinite(self.window_db) and self.window_db > 0):
            raise SettingError("window_db", self.window_db, "a width above 0 dB")
        if self.batch_size < 1:
            raise SettingError("batch_size", self.batch_size, "a whole number of at least 1")
        self._check_purifiers()

    def _check_seeds(self) -> None:
        once = len(set(self.seeds)) == len(self.seeds)
        if not (self.seeds and once and all(0 <= seed < LARGEST_SEED for seed in self.seeds)):
            expected = "whole numbers in [0, 2**63), at least one and each once"
            raise SettingError("seeds", list(self.seeds), expected)

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

    @property
    def defences(self) -> tuple[str, ...]:
        """Names of the defences in records, the bare target not among them."""
        return (*self.controls.names, *self.adversarial.models(), *self.purifiers, *self.variants)

    @property
    def chosen(self) -> dict[str, Preset]:
        """Network and training of each purifier, variants included, by name."""
        named = {
            name: Preset(PRESETS[name].network, training or PRESETS[name].training)
            for name, training in self.purifiers.items()
        }
        varied = {
            name: Preset(PRESETS[variant.preset].network, variant.training)
            for name, variant in self.variants.items()
        }
        return named | varied


def load_recipe(path: str | Path) -> Recipe:
    """Return the recipe in a YAML file.

    Raises:
        RecipeError: The file is missing, is not YAML, has an unknown key (the nearest known one is
            named), or a value of the wrong kind or outside its rule.
    """
    path = Path(path)
    given = _read(path)
    try:
        return build(Recipe, _with_trainings(given))
    except ServaxError as error:
        raise RecipeError(path, str(error)) from None


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


class _Loader(yaml.SafeLoader):
    """YAML without code, in which no key may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node after looking at its keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _KeyTwiceError(key.value, key.start_mark.line + 1)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _KeyTwiceError(Exception):
    """A key stands twice in one mapping."""


def _read(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise RecipeError(path, "no such recipe; expected a YAML file such as recipes/*.yaml")
    if path.stat().st_size > MAX_BYTES:
        raise RecipeError(path, f"has {path.stat().st_size} bytes, expected at most {MAX_BYTES}")
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise RecipeError(path, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecipeError(path, "is not UTF-8 text") from None
    except _KeyTwiceError as error:
        key, line = error.args
        raise RecipeError(path, f"has the key {key!r} twice (line {line}), expected once") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise RecipeError(path, f"is not YAML{where}") from None
    except RecursionError:
        raise RecipeError(path, "is nested too deeply") from None
    if not isinstance(given, dict):
        held = "nothing" if given is None else "no keys"
        raise RecipeError(path, f"holds {held}, expected keys and values such as 'name: trial'")
    return given
