"""Parts of a recipe: corpus, controls, adversarial models."""

from __future__ import annotations

from dataclasses import dataclass, field

from servax.corpora import SCHEMES
from servax.defences.adversarial import (
    AdversarialTraining,
    MadryPGD,
    Objective,
    Similarity,
    Trades,
    Vanilla,
)
from servax.errors import SettingError
from servax.evaluation.suites import AttackGrid
from servax.purifier import PRESETS, PurifierTraining

LARGEST_SEED = 2**63
"""Records keep seeds in 64 bits."""
OBJECTIVES = ("vanilla", "similarity", "pgd-at", "trades")


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

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the controls in records."""
        return (
            "gaussian-noise",
            "mean-filter",
            *(f"quantise-{bits}" for bits in self.quantise_bits),
        )


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
    """Of `vanilla`, `similarity` (both [18]: one model per ε), `pgd-at`, `trades`; none at all."""
    epsilons: tuple[float, ...] = AttackGrid().epsilons
    """ε of the FGSM that `vanilla` and `similarity` train with, on the [0, 1] scale."""
    training: AdversarialTraining = field(default_factory=AdversarialTraining)
    """Their schedule; the default is [18]'s."""
    pgd: MadryPGD = field(default_factory=MadryPGD)
    """The inner attack of `pgd-at`."""
    trades: Trades = field(default_factory=Trades)
    """The inner attack and the weight of `trades`."""

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise SettingError.choice("objectives", name, OBJECTIVES)
        for key in ("objectives", "epsilons"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise SettingError(key, list(values), "each once")
        if not self.epsilons:
            raise SettingError("epsilons", [], "at least one size")
        self.models()

    def models(self) -> dict[str, Objective]:
        """Return the objective of each model by the name of the defence."""
        chosen: list[Objective] = []
        for name in self.objectives:
            if name in ("vanilla", "similarity"):
                make = {"vanilla": Vanilla, "similarity": Similarity}[name]
                chosen += [make(epsilon) for epsilon in self.epsilons]
            else:
                chosen.append(self.pgd if name == "pgd-at" else self.trades)
        return {objective.name: objective for objective in chosen}
