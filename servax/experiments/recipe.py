"""An experiment is data: a recipe is a YAML file of frozen dataclasses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from servax.corpora.loading import SCHEMES
from servax.errors import RecipeError, ServaxError, SettingError
from servax.evaluation.protocol import AttackGrid
from servax.experiments.building import build
from servax.features import FrontEndSettings
from servax.models import DiscriminatorSettings
from servax.purifier import PRESETS, PurifierTraining
from servax.training import Compute, RecogniserTraining

MAX_BYTES = 1_000_000
LARGEST_SEED = 2**63
"""Records keep seeds in 64 bits."""
SMALLEST_INPUT = 32
"""VGG-16 halves its input five times."""


@dataclass(frozen=True)
class CorpusChoice:
    """Which recordings, and how they are labelled."""

    name: str
    """A known corpus (`servax corpus list`), or the path of a CSV or Parquet manifest."""
    root: str | None = None
    """Folder of the corpus; default `$SERVAX_DATA/<name>`."""
    scheme: str = "four"
    """Label scheme: `native` or `four`."""
    seed: int = 0
    """Seed of the synthetic corpus; others have no use for it."""

    def __post_init__(self) -> None:
        if not self.name:
            raise SettingError("name", self.name, "a known corpus or the path of a manifest")
        if self.scheme not in SCHEMES:
            raise SettingError.choice("scheme", self.scheme, SCHEMES)
        if not 0 <= self.seed < LARGEST_SEED:
            raise SettingError("seed", self.seed, "a whole number in [0, 2**63)")


@dataclass(frozen=True)
class Controls:
    """Cheap input transforms, scored as controls beside the purifiers."""

    gaussian_noise: float = 0.02
    """Standard deviation of the noise, on the [0, 1] scale."""
    mean_filter: int = 3
    """Side of the mean filter, in Mel bins and frames."""
    quantise_bits: tuple[int, ...] = (8, 4)
    """Bits of each quantisation."""

    def __post_init__(self) -> None:
        if not 0 < self.gaussian_noise <= 1:
            raise SettingError("gaussian_noise", self.gaussian_noise, "a number in (0, 1]")
        if self.mean_filter < 1 or self.mean_filter % 2 == 0:
            raise SettingError("mean_filter", self.mean_filter, "an odd whole number")
        once = len(set(self.quantise_bits)) == len(self.quantise_bits)
        if not (once and all(1 <= bits <= 16 for bits in self.quantise_bits)):
            raise SettingError(
                "quantise_bits", list(self.quantise_bits), "whole numbers in [1, 16], each once"
            )


@dataclass(frozen=True)
class Recipe:
    """All that decides the figures of a run."""

    name: str
    """Name of the run: letters, digits, `-` and `_`."""
    corpus: CorpusChoice
    """The recordings."""
    groups: int = 6
    """Into how many groups the speakers are divided; each is held out once."""
    held_out: tuple[int, ...] | None = None
    """Which groups are held out, from 1; none means all."""
    seed: int = 0
    """Seeds weights, batches and distortions."""
    width: int = 64
    """Channels of VGG-16's first block; 64 is the published network."""
    front_end: FrontEndSettings = field(default_factory=FrontEndSettings)
    """From waveform to log-Mel."""
    window_db: float = 80.0
    """Width of the dB window that is mapped to [0, 1]."""
    recogniser: RecogniserTraining = field(default_factory=RecogniserTraining)
    """Training of the target and, with another seed, of the extractor."""
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    """D."""
    purifiers: dict[str, PurifierTraining | None] = field(
        default_factory=lambda: dict.fromkeys(PRESETS)
    )
    """Purifier presets and, where it differs from the preset's, their training."""
    controls: Controls = field(default_factory=Controls)
    """Input transforms."""
    attacks: AttackGrid = field(default_factory=AttackGrid)
    """Strengths of the attacks."""
    batch_size: int = 16
    """Utterances attacked together."""
    compute: Compute = field(default_factory=Compute)
    """Device and precision of the training."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.name):
            raise SettingError("name", self.name, "1 to 64 letters, digits, '-' and '_'")
        if self.groups < 3:
            raise SettingError("groups", self.groups, "at least 3: test, validation, training")
        if self.held_out is not None:
            inside = all(1 <= group <= self.groups for group in self.held_out)
            once = len(set(self.held_out)) == len(self.held_out)
            if not (self.held_out and inside and once):
                expected = f"groups from 1 to {self.groups}, each once, or null for all"
                raise SettingError("held_out", list(self.held_out), expected)
        if not 0 <= self.seed < LARGEST_SEED:
            raise SettingError("seed", self.seed, "a whole number in [0, 2**63)")
        if not 1 <= self.width <= 1024:
            raise SettingError("width", self.width, "a whole number in [1, 1024]")
        if not (math.isfinite(self.window_db) and self.window_db > 0):
            raise SettingError("window_db", self.window_db, "a width above 0 dB")
        if self.batch_size < 1:
            raise SettingError("batch_size", self.batch_size, "a whole number of at least 1")
        self._check_purifiers()

    def _check_purifiers(self) -> None:
        if not self.purifiers:
            raise SettingError("purifiers", self.purifiers, f"at least one of {', '.join(PRESETS)}")
        for name in self.purifiers:
            if name not in PRESETS:
                raise SettingError.choice("purifiers", name, PRESETS)
            # Said now, not when the recogniser has been trained for hours.
            given, expected = self.front_end.logmel.mels, PRESETS[name].network.mels
            if given != expected:
                raise SettingError(
                    "front_end.logmel.mels", given, f"{expected}, the size of a token of {name}"
                )
        if self.front_end.frames < SMALLEST_INPUT:
            raise SettingError(
                "front_end.frames", self.front_end.frames, f"at least {SMALLEST_INPUT} for VGG-16"
            )

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that are run, from 0."""
        return tuple(g - 1 for g in self.held_out) if self.held_out else tuple(range(self.groups))

    def training(self, preset: str) -> PurifierTraining:
        """Return how a purifier is trained: the recipe's word, else the preset's own."""
        return self.purifiers[preset] or PRESETS[preset].training


def load_recipe(path: str | Path) -> Recipe:
    """Return the recipe in a YAML file.

    Raises:
        RecipeError: The file is missing, is not YAML, has an unknown key (the nearest known one is
            named), or a value of the wrong kind or outside its rule.
    """
    path = Path(path)
    given = _read(path)
    try:
        return build(Recipe, given)
    except ServaxError as error:
        raise RecipeError(path, str(error)) from None


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
