"""The protocol: who is attacked, what the attacker knows, what each defence then predicts.

Oblivious attacks (the paper's threat model) take the gradients of the bare target and are computed
**once**; every defence is scored on the same adversarial inputs. FGSM's gradient is taken once for
all ε; PGD's trajectory without random start gives every k on its way. The adaptive attack goes
through each defence itself and always stands beside the oblivious ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from servax.attacks import FGSM, PGD
from servax.defences import Defended
from servax.errors import SettingError
from servax.evaluation.records import validate
from servax.features import Batch, Dataset
from servax.training import Compute

UNDEFENDED = "undefended"


@dataclass(frozen=True)
class AttackGrid:
    """Strengths of the attacks; the grid is the paper's, section 3.2.3 and Figure 2."""

    epsilons: tuple[float, ...] = (0.003, 0.006, 0.009, 0.012, 0.015)
    """ε of FGSM, on the [0, 1] scale (.003 is .24 dB)."""
    step: float = 0.003
    """Step of PGD, on the [0, 1] scale; not printed in the paper."""
    radius: float = 0.02
    """Radius of PGD's ball, on the [0, 1] scale (.02 is 1.6 dB); not printed in the paper."""
    steps: int = 30
    """Largest k of PGD; every k from 1 is scored."""
    adaptive_steps: int = 30
    """Steps of the adaptive PGD (same step and radius)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilons", tuple(self.epsilons))
        if not self.epsilons:
            raise SettingError("epsilons", self.epsilons, "at least one size")
        if len(set(self.epsilons)) < len(self.epsilons):
            raise SettingError("epsilons", self.epsilons, "each size once")
        for epsilon in self.epsilons:
            self.fgsm(epsilon)
        if self.adaptive_steps < 1:
            raise SettingError(
                "adaptive_steps", self.adaptive_steps, "a whole number of at least 1"
            )
        self.pgd(self.steps)

    def fgsm(self, epsilon: float) -> FGSM:
        """Return FGSM of one size."""
        return FGSM(epsilon=epsilon)

    def pgd(self, steps: int) -> PGD:
        """Return PGD with `steps` steps, from the clean input."""
        return PGD(step=self.step, radius=self.radius, steps=steps)


@dataclass(frozen=True)
class Defence:
    """A defence under test."""

    module: nn.Module
    """From (B, 1, M, F) on [0, 1] to the same."""
    knowledge: str = "adaptive"
    """What gradients through it are: `adaptive` (exact) or `bpda`."""

    def __post_init__(self) -> None:
        if self.knowledge not in ("adaptive", "bpda"):
            raise SettingError.choice("knowledge", self.knowledge, ("adaptive", "bpda"))


@dataclass(frozen=True)
class Identity:
    """What is the same in every row of a table of records."""

    target: str
    """Name of the attacked recogniser."""
    fold: int
    """Number of the held-out fold, from 0."""
    seed: int
    """Seed of the run."""


@dataclass(frozen=True)
class _Condition:
    defence: str
    attack: str
    strength: float
    knowledge: str


def evaluate(
    target: nn.Module,
    defences: Mapping[str, Defence],
    test: Dataset,
    grid: AttackGrid,
    identity: Identity,
    *,
    batch_size: int = 16,
    compute: Compute | None = None,
    tick: Callable[[], None] | None = None,
) -> pd.DataFrame:
    """Return records: the prediction for each test utterance under each condition.

    Args:
        target: The bare recogniser, from (B, 1, M, F) to logits (B, C).
        defences: By name; the bare target is added as ``undefended``.
        test: Held-out speakers.
        grid: Attack strengths.
        identity: What is the same in every row.
        batch_size: Utterances attacked together.
        compute: Device; attacks and predictions are in float32 whatever its precision.
        tick: Called `ticks` times in all.

    Returns:
        One row per utterance and condition (`servax.evaluation.records.COLUMNS`).

    Raises:
        SettingError: A defence is called ``undefended``.
    """
    if UNDEFENDED in defences:
        raise SettingError("defence name", UNDEFENDED, "another name, this one is the bare target")
    compute = compute or Compute()
    device = compute.resolve()
    target = target.to(device).eval()
    defended = {name: Defended(target, d.module).to(device).eval() for name, d in defences.items()}
    rows: list[pd.DataFrame] = []
    for batch in test.batches(batch_size, device):
        for condition, logits in _conditions(target, defences, defended, batch, grid, tick):
            rows.append(_rows(test, batch, condition, logits))
    frame = pd.concat(rows, ignore_index=True)
    frame["target"], frame["fold"], frame["seed"] = identity.target, identity.fold, identity.seed
    frame["corpus"] = test.corpus.name
    return validate(frame)


def ticks(count: int, defences: int, grid: AttackGrid, *, batch_size: int = 16) -> int:
    """Return how often `evaluate` ticks: once per gradient."""
    batches = -(-count // batch_size)
    return batches * (1 + max(grid.steps, grid.adaptive_steps) + defences * grid.adaptive_steps)


def _conditions(
    target: nn.Module,
    defences: Mapping[str, Defence],
    defended: Mapping[str, nn.Module],
    batch: Batch,
    grid: AttackGrid,
    tick: Callable[[], None] | None,
) -> Iterator[tuple[_Condition, Tensor]]:
    """Yield every condition of one batch with its logits (B, C)."""
    everyone = {UNDEFENDED: target, **defended}
    for attack, strength, x in _oblivious(target, batch, grid, tick):
        knowledge = "none" if attack == "none" else "oblivious"
        if strength <= grid.steps or attack != "pgd":
            for name, model in everyone.items():
                yield _Condition(name, attack, strength, knowledge), _logits(model, x)
        if attack == "pgd" and strength == grid.adaptive_steps:
            # Nothing stands before the bare target: its oblivious attack is its adaptive one.
            condition = _Condition(UNDEFENDED, "pgd", strength, "adaptive")
            yield condition, _logits(target, x)
    for name, model in defended.items():
        x = batch.x
        for x in grid.pgd(grid.adaptive_steps).trajectory(model, batch.x, batch.y):  # noqa: B007
            if tick is not None:
                tick()
        condition = _Condition(name, "pgd", grid.adaptive_steps, defences[name].knowledge)
        yield condition, _logits(model, x)


def _oblivious(
    target: nn.Module, batch: Batch, grid: AttackGrid, tick: Callable[[], None] | None
) -> Iterator[tuple[str, float, Tensor]]:
    """Yield (attack, strength, inputs) of the attacks on the bare target, clean input first."""
    tick = tick or (lambda: None)
    yield "none", 0.0, batch.x
    fgsm = grid.fgsm(grid.epsilons[0])
    for epsilon, x in zip(
        grid.epsilons, fgsm.sweep(target, batch.x, batch.y, grid.epsilons), strict=True
    ):
        yield "fgsm", epsilon, x
    tick()
    longest = max(grid.steps, grid.adaptive_steps)
    pgd = grid.pgd(longest).trajectory(target, batch.x, batch.y)
    for k, x in enumerate(pgd, start=1):
        yield "pgd", float(k), x
        tick()


@torch.inference_mode()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x)
    return logits


def _rows(test: Dataset, batch: Batch, condition: _Condition, logits: Tensor) -> pd.DataFrame:
    labels = np.array(test.corpus.labels, dtype=object)
    table = test.corpus.utterances.iloc[batch.positions]
    return pd.DataFrame(
        {
            "utterance": table["utterance"].to_numpy(),
            "speaker": table["speaker"].to_numpy(),
            "gender": table["gender"].to_numpy(),
            "label": table["label"].to_numpy(),
            "prediction": labels[logits.argmax(dim=1).cpu().numpy()],
            "defence": condition.defence,
            "attack": condition.attack,
            "strength": condition.strength,
            "knowledge": condition.knowledge,
        }
    )
