"""All checks on two random defences: an honest one, and one that hides its gradients in ripples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.corpora import COLUMNS, Corpus
from servax.defences import GaussianNoise
from servax.evaluation.checks import MODEL_CHECKS, RECORD_CHECKS, Case, Finding
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import AttackEngine, Identity, run
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System, before
from servax.evaluation.threats import Budget, Threat
from servax.training import global_seed

LABELS = ("angry", "happy", "sad")
COUNT, NOISE = 24, 0.1
SUITE = Suite("smoke", Budget(radius=0.1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Rippled(GaussianNoise):
    """Adds noise and ripples: too small to be seen, and so steep that they drown the gradient."""

    def changed(self, x: Tensor) -> Tensor:
        return super().changed(x + 1e-3 * torch.sin(3e5 * x))


@pytest.fixture(scope="module")
def heard() -> EvaluationSet:
    """Return points of three classes, as if they were log-Mels."""
    number = np.arange(COUNT)
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=number)
    table["utterance"] = [f"u{i:02d}" for i in number]
    table["label"] = table["emotion"] = [LABELS[i % 3] for i in number]
    table["speaker"] = [f"s{i // 4}" for i in number]
    table["start"], table["end"] = 0.0, math.nan
    corpus = Corpus("made", Path(), "native", LABELS, table)
    y = torch.from_numpy(number % 3)
    centres = torch.rand(3, 1, 8, 10, generator=seeded(1))
    x = 0.5 + 0.3 * (centres[y] - 0.5) + 0.2 * torch.rand(COUNT, 1, 8, 10, generator=seeded(2))
    return EvaluationSet(corpus=corpus, x=x.clamp(0, 1), y=y, names=LABELS)


@pytest.fixture(scope="module")
def bare(heard: EvaluationSet) -> System:
    """Return a head that was trained with noise."""
    with global_seed(3, "head"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(80, 32), nn.Tanh(), nn.Linear(32, 3))
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(300):
            optimiser.zero_grad()
            noisy = (heard.x + NOISE * torch.randn_like(heard.x)).clamp(0, 1)
            nn.functional.cross_entropy(model(noisy), heard.y).backward()
            optimiser.step()
    return System(name="undefended", model=model.eval(), labels=LABELS)


def findings(bare: System, front: nn.Module, heard: EvaluationSet) -> Iterator[Finding]:
    """Yield what the checks find of a defence, from probes and from records."""
    system = before(bare, front, "drawn")
    threats = [each.on_random() for each in SUITE.threats() if each.knowledge != "bpda"]
    identity = Identity(target="head", fold=1, seed=0)
    frame = run([bare, system], threats, heard, identity=identity, reseeds=True).frame
    for check in RECORD_CHECKS:
        yield from (each for each in check(frame) if each.subject == "drawn")
    case = Case.of(system, heard, SUITE, batch_size=16, generator=seeded(4))
    for check in MODEL_CHECKS:
        yield check(case.first(check.part(len(case.x))))


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_before_a_head_that_knows_it_raises_no_alarm(
    bare: System, heard: EvaluationSet, seed: int
) -> None:
    found = {f.check: f for f in findings(bare, GaussianNoise(NOISE, seeded(seed)), heard)}
    alarms = {name: f.statement for name, f in found.items() if f.severity in ("error", "warning")}
    assert not alarms
    assert found["deterministic"].severity == "note"
    assert found["twice-the-draws"].severity == "passed"
    assert found["white-box-at-least-black-box"].severity == "passed"


def test_noise_that_hides_gradients_is_caught(bare: System, heard: EvaluationSet) -> None:
    found = {f.check: f for f in findings(bare, Rippled(NOISE, seeded()), heard)}
    errors = {name for name, f in found.items() if f.severity == "error"}
    assert "white-box-at-least-black-box" in errors
    assert found["planted"].severity != "passed"


def test_attackers_average_as_their_threat_says(bare: System, heard: EvaluationSet) -> None:
    system = before(bare, GaussianNoise(NOISE, seeded()), "drawn")
    identity = Identity(target="head", fold=1, seed=0)
    engine = AttackEngine(dataset=heard, identity=identity, reseeds=True)
    attack, x = PGD(steps=2), heard.x[:4]

    def faced(**said: Any) -> tuple[nn.Module, int]:
        given: dict[str, Any] = {"name": "pgd", "knowledge": "adaptive", "attack": attack}
        return engine.faced(Threat(**given | said), system)

    model, draws = faced()
    assert draws >= 2
    assert not torch.equal(model(x), model(x))
    assert faced(halved=True)[1] == draws // 2
    held, same = faced(fixed=True)
    assert same == draws
    assert torch.equal(held(x), held(x))
    assert faced(knowledge="black_box") == (system.model, 1)
    assert faced(knowledge="black_box", draws=8)[1] == 8
    assert faced(draws=20)[1] == 20
    # Of two draws the mean of logits is no mean of probabilities.
    engine.reseed(system, "x")
    logits = faced(draws=2, mean="logits")[0](x)
    engine.reseed(system, "x")
    each = torch.stack([system.model(x) for _ in range(2)])
    assert torch.allclose(logits, each.mean(0).log_softmax(1))
    assert engine.faced(Threat("pgd", "adaptive", attack), bare) == (bare.model, 1)
