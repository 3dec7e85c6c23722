"""The protocol: who is attacked, what the attacker knows, what each defence then predicts.

Oblivious attacks (the paper's threat model) take the gradients of the bare target and are computed
**once**; every defence is scored on the same adversarial inputs. FGSM's gradient is taken once for
all ε; PGD's trajectory without random start gives every k on its way. The adaptive attack goes
through each defence itself and always stands beside the oblivious ones.

`evaluate` does all of it. A run computes the parts apart, so that each can be kept: `oblivious`
for one attack and all defences, `adaptive` for one defence, `bare_adaptive` for the bare target,
whose rows are known by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.attacks.fast import labelled, with_gradients
from servax.attacks.problem import logits_of
from servax.defences import Defended
from servax.errors import SettingError
from servax.evaluation.grid import AttackGrid
from servax.evaluation.records import validate
from servax.evaluation.threats import CLEAN, attack_columns
from servax.features import Batch, Dataset
from servax.models import classes_of
from servax.training import Compute

UNDEFENDED = "undefended"
ObliviousAttack = Literal["none", "fgsm", "pgd"]
OBLIVIOUS: tuple[ObliviousAttack, ...] = ("none", "fgsm", "pgd")
"""Attacks on the bare target, clean input first."""
AdaptiveAttack = Literal["fgsm", "pgd"]
ADAPTIVE: tuple[AdaptiveAttack, ...] = ("fgsm", "pgd")
"""Attacks through each defence."""

TOLD = ("utterance", "speaker", "gender", "label")
"""What records say of an utterance as its corpus does."""

Tick = Callable[[], None]


@dataclass(frozen=True)
class Defence:
    """A defence under test."""

    module: nn.Module
    """From (B, 1, M, F) on [0, 1] to the same; or a classifier, where it stands `instead`."""
    knowledge: str = "adaptive"
    """What gradients through it are: `adaptive` (exact) or `bpda`."""
    instead: bool = False
    """Whether it is a classifier in the target's place (adversarial training), not before it."""

    def __post_init__(self) -> None:
        if self.knowledge not in ("adaptive", "bpda"):
            raise SettingError.choice("knowledge", self.knowledge, ("adaptive", "bpda"))

    def defend(self, target: nn.Module) -> nn.Module:
        """Return the classifier that an attacker of this defence faces."""
        return self.module if self.instead else Defended(target, self.module)


@dataclass(frozen=True)
class Identity:
    """What is the same in every row of a table of records."""

    target: str
    """Name of the attacked recogniser."""
    fold: int
    """Number of the held-out fold, from 1."""
    seed: int
    """Seed of the run."""


@dataclass(frozen=True)
class Condition:
    """Under which inputs were predicted."""

    defence: str
    """Name of who is scored."""
    attack: str
    """Name of the attack, ``none`` for clean input."""
    strength: float
    """Its strength, 0 for clean input."""
    knowledge: str
    """What the attacker knows, ``none`` for clean input."""
    told: Mapping[str, Any] = field(default_factory=lambda: dict(CLEAN))
    """The columns of records that tell of the attack's settings."""


def evaluate(
    target: nn.Module,
    defences: Mapping[str, Defence],
    test: Dataset,
    grid: AttackGrid,
    identity: Identity,
    *,
    batch_size: int = 16,
    compute: Compute | None = None,
    tick: Tick | None = None,
) -> pd.DataFrame:
    """Return records: the prediction for each test utterance under each condition.

    Args:
        target: The bare recogniser, from (B, 1, M, F) to logits (B, C).
        defences: By name; the bare target is added as ``undefended``.
        test: Held-out speakers.
        grid: Attack strengths.
        identity: What is the same in every row.
        batch_size: Utterances attacked together.
        compute: Device; predictions are in float32 whatever its precision, and gradients are as
            `grid` says.
        tick: Called once per gradient, `ticks` in all.

    Returns:
        One row per utterance and condition (`servax.evaluation.records.COLUMNS`).

    Raises:
        SettingError: A defence is called ``undefended``.
        ServaxError: What a model answers to an utterance is NaN or infinite.
    """
    options = {"batch_size": batch_size, "compute": compute, "tick": tick}
    frames = [
        oblivious(attack, target, defences, test, grid, identity, **options)  # type: ignore[arg-type]
        for attack in OBLIVIOUS
    ]
    frames = [*frames[:-1], *bare_adaptive(frames[-2], frames[-1], grid)]
    for name, defence in defences.items():
        for known in ADAPTIVE:
            frames.append(adaptive(known, name, defence, target, test, grid, identity, **options))  # type: ignore[arg-type]
    return validate(pd.concat(frames, ignore_index=True))


def oblivious(
    attack: ObliviousAttack,
    target: nn.Module,
    defences: Mapping[str, Defence],
    test: Dataset,
    grid: AttackGrid,
    identity: Identity,
    *,
    batch_size: int = 16,
    compute: Compute | None = None,
    tick: Tick | None = None,
) -> pd.DataFrame:
    """Return the records of one attack on the bare target, for it and every defence.

    PGD beyond ``grid.steps`` (a longer adaptive attack) is scored for the bare target alone;
    `bare_adaptive` takes those rows.

    Raises:
        SettingError: A defence is called ``undefended``.
    """
    if UNDEFENDED in defences:
        raise SettingError("defence name", UNDEFENDED, "another name, this one is the bare target")
    device = (compute or Compute()).resolve()
    target = target.to(device).eval()
    defended = {name: d.defend(target).to(device).eval() for name, d in defences.items()}
    everyone = {UNDEFENDED: target, **defended}
    attacked = with_gradients(target, grid.gradients)
    knowledge = "none" if attack == "none" else "oblivious"
    rows = []
    for batch in test.batches(batch_size, device):
        for strength, x in _inputs(attack, attacked, batch, grid, grid.longest, tick):
            beyond = attack == "pgd" and strength > grid.steps
            for name, model in ({UNDEFENDED: target} if beyond else everyone).items():
                told = _told(attack, strength, grid)
                condition = Condition(name, attack, strength, knowledge, told)
                rows.append(_rows(test, batch, condition, _logits(model, x)))
    return _identified(rows, test, identity, grid)


def adaptive(
    attack: AdaptiveAttack,
    name: str,
    defence: Defence,
    target: nn.Module,
    test: Dataset,
    grid: AttackGrid,
    identity: Identity,
    *,
    batch_size: int = 16,
    compute: Compute | None = None,
    tick: Tick | None = None,
) -> pd.DataFrame:
    """Return the records of one attack through one defence, by an attacker who knows it."""
    device = (compute or Compute()).resolve()
    model = defence.defend(target.to(device).eval()).to(device).eval()
    attacked = with_gradients(model, grid.gradients)
    rows = []
    for batch in test.batches(batch_size, device):
        for strength, x in _inputs(attack, attacked, batch, grid, grid.adaptive_steps, tick):
            if attack == "fgsm" or strength in grid.adaptive_ks:
                told = _told(attack, strength, grid)
                condition = Condition(name, attack, strength, defence.knowledge, told)
                rows.append(_rows(test, batch, condition, _logits(model, x)))
    return _identified(rows, test, identity, grid)


def bare_adaptive(
    fgsm: pd.DataFrame, pgd: pd.DataFrame, grid: AttackGrid
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the oblivious records of PGD within the grid, and the bare target's adaptive ones.

    Nothing stands before the bare target: its oblivious attack is its adaptive one, and is not
    computed twice.

    Args:
        fgsm: Records of `oblivious` for FGSM.
        pgd: Records of `oblivious` for PGD.
        grid: The grid of both.
    """
    bare = pd.concat([fgsm, pgd[pgd["strength"].isin(grid.adaptive_ks)]], ignore_index=True)
    bare = bare[bare["defence"] == UNDEFENDED]
    return pgd[pgd["strength"] <= grid.steps], bare.assign(knowledge="adaptive")


def ticks(count: int, defences: int, grid: AttackGrid, *, batch_size: int = 16) -> int:
    """Return how often `evaluate` ticks: once per gradient."""
    oblivious = sum(oblivious_ticks(attack, count, grid, batch_size) for attack in OBLIVIOUS)
    adaptive = sum(adaptive_ticks(attack, count, grid, batch_size) for attack in ADAPTIVE)
    return oblivious + defences * adaptive


def oblivious_ticks(attack: str, count: int, grid: AttackGrid, batch_size: int) -> int:
    """Return how often `oblivious` ticks: once per gradient, for clean input once per batch."""
    return -(-count // batch_size) * {"none": 1, "fgsm": 1, "pgd": grid.longest}[attack]


def adaptive_ticks(attack: str, count: int, grid: AttackGrid, batch_size: int) -> int:
    """Return how often `adaptive` ticks: once per gradient."""
    return -(-count // batch_size) * {"fgsm": 1, "pgd": grid.adaptive_steps}[attack]


def _inputs(
    attack: str, model: nn.Module, batch: Batch, grid: AttackGrid, steps: int, tick: Tick | None
) -> Iterator[tuple[float, Tensor]]:
    """Yield (strength, inputs) of one attack on one model."""
    tick = tick or (lambda: None)
    if attack == "none":
        yield 0.0, batch.x
        tick()
        return
    # The copy leaves inference mode: a loss may keep it for its gradient.
    y = batch.y if grid.label == "true" else classes_of(_logits(model, batch.x)).clone()
    if attack == "fgsm":
        yield from grid.fgsm(grid.epsilons[0]).sweep(model, batch.x, y, grid.epsilons)
        tick()
        return
    for k, x in enumerate(grid.pgd(steps).trajectory(model, batch.x, y), start=1):
        yield float(k), x
        tick()


def _told(attack: str, strength: float, grid: AttackGrid) -> Mapping[str, Any]:
    if attack == "none":
        return CLEAN
    if attack == "fgsm":
        return attack_columns(grid.fgsm(strength), strength)
    return attack_columns(grid.pgd(int(strength)), grid.radius)


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return logits_of(model, x)


def _rows(test: Dataset, batch: Batch, condition: Condition, logits: Tensor) -> pd.DataFrame:
    labels = np.array(test.corpus.labels, dtype=object)
    table = test.corpus.utterances.iloc[batch.positions]
    classes = classes_of(logits, table["utterance"].tolist())
    return prediction_rows(table, labels[classes.cpu().numpy()], condition)


def prediction_rows(
    table: pd.DataFrame, predictions: NDArray[np.object_], condition: Condition
) -> pd.DataFrame:
    """Return the part of records that is told utterance by utterance.

    Args:
        table: Utterances, N rows with the columns of a corpus.
        predictions: Names of the predicted classes, (N,).
        condition: Under which they were predicted.
    """
    return pd.DataFrame(
        {
            **{
                name: table[name].to_numpy() for name in ("utterance", "speaker", "gender", "label")
            },
            "prediction": predictions,
            "defence": condition.defence,
            "attack": condition.attack,
            "strength": condition.strength,
            "knowledge": condition.knowledge,
            **condition.told,
        }
    )


def _identified(
    rows: list[pd.DataFrame], test: Dataset, identity: Identity, grid: AttackGrid
) -> pd.DataFrame:
    named = replace(identity, target=labelled(identity.target, grid.gradients))
    return identified(pd.concat(rows, ignore_index=True), named, test.corpus.name)


def identified(frame: pd.DataFrame, identity: Identity, corpus: str) -> pd.DataFrame:
    """Return valid records: rows of predictions with what is the same in all of them."""
    return validate(frame.assign(**asdict(identity), corpus=corpus))
