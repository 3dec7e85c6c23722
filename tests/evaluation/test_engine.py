from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from servax.attacks import FGSM, PGD
from servax.corpora import COLUMNS, Corpus
from servax.defences import GaussianNoise, MeanFilter, Quantise
from servax.errors import ServaxError, SettingError
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import AttackEngine, Identity, run
from servax.evaluation.records import KEY, UNDEFENDED
from servax.evaluation.suites import AttackGrid
from servax.evaluation.systems import System, before
from servax.features import Dataset, Features, Scale, ScaleSettings
from servax.training import Compute, global_seed

LABELS = ("angry", "happy", "sad")
IDENTITY = Identity(target="toy", fold=2, seed=5)
CPU = Compute("cpu")
GRID = AttackGrid(epsilons=(0.02, 0.1), step=0.04, radius=0.1, steps=4, adaptive_steps=4)


class Toy(nn.Module):
    """A small smooth classifier with steep logits, so that small changes turn predictions."""

    def __init__(self) -> None:
        super().__init__()
        with global_seed(1, "toy"):
            self.convolution = nn.Conv2d(1, 4, 3, stride=2)
            self.linear = nn.Linear(4 * 3 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(4 * self.convolution(x)).flatten(1)
        logits: Tensor = 5 * self.linear(hidden)
        return logits


def make_dataset(count: int) -> Dataset:
    draws = np.random.default_rng(3)
    decibels = draws.uniform(-80.0, 0.0, (count, 8, 10)).astype(np.float32)
    names = [f"u{i:02d}" for i in range(count)]
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(count))
    table["utterance"] = names
    table["label"] = table["emotion"] = [LABELS[i % 3] for i in range(count)]
    table["speaker"] = [f"s{i // 4}" for i in range(count)]
    table["gender"] = ["female" if i % 2 else "" for i in range(count)]
    table["start"], table["end"] = 0.0, math.nan
    corpus = Corpus("made", Path(), "native", LABELS, table)
    # The cache may hold rows in any order.
    features = Features(decibels[::-1].copy(), tuple(reversed(names)))
    return Dataset(corpus, features, Scale(ScaleSettings(top_db=0.0)))


DEFENCES: Mapping[str, nn.Module] = {"mean-filter": MeanFilter(3), "quantise-4": Quantise(4)}


def systems(target: nn.Module, fronts: Mapping[str, nn.Module]) -> list[System]:
    """Return the target and what stands before it; a `Toy` of its own stands in its place."""
    made = [System(name=UNDEFENDED, model=target)]
    for name, front in fronts.items():
        own = isinstance(front, Toy)
        made.append(System(name=name, model=front) if own else before(made[0], front, name))
    return made


def evaluate(
    target: nn.Module,
    fronts: Mapping[str, nn.Module],
    test: Dataset,
    grid: AttackGrid,
    **options: Any,
) -> pd.DataFrame:
    """Try the paper's grid on a model and defences before it."""
    threats = [*grid.oblivious(), *grid.adaptive()]
    given: dict[str, Any] = {"identity": IDENTITY, "compute": CPU, "gradients": grid.gradients}
    return run(systems(target, fronts), threats, test, **given | options).frame


def oracle(
    target: nn.Module, defences: Mapping[str, nn.Module], test: Dataset, grid: AttackGrid
) -> dict[tuple[str, str, str, float, str], str]:
    """Attack each utterance and each condition apart from all others."""
    found = {}
    pgd = {"step": grid.step, "epsilon": grid.radius}
    ways = {"undefended": nn.Identity(), **defences}
    for position, utterance in enumerate(test.corpus.utterances["utterance"]):
        batch = test.batch(np.array([position]))
        x, y = batch.x, batch.y
        conditions: list[tuple[str, float, str, Tensor]] = [("none", 0.0, "none", x)]
        for epsilon in grid.epsilons:
            moved = FGSM(epsilon=epsilon)(target, x, y)
            conditions.append(("fgsm", epsilon, "oblivious", moved))
        for k in range(1, grid.steps + 1):
            moved = PGD(steps=k, **pgd)(target, x, y)
            conditions.append(("pgd", k, "oblivious", moved))
        for name, module in ways.items():
            through = nn.Sequential(module, target)
            knowledge = getattr(module, "knowledge", "adaptive")
            known: list[tuple[str, float, str, Tensor]] = []
            for epsilon in grid.epsilons:
                known.append(("fgsm", epsilon, knowledge, FGSM(epsilon=epsilon)(through, x, y)))
            for k in {3, 6, grid.adaptive_steps}:
                if k <= grid.adaptive_steps:
                    known.append(("pgd", float(k), knowledge, PGD(steps=k, **pgd)(through, x, y)))
            for attack, strength, known_as, given in [*conditions, *known]:
                with torch.no_grad():
                    label = LABELS[int(through(given).argmax())]
                found[utterance, name, attack, strength, known_as] = label
    return found


@pytest.mark.parametrize("adaptive_steps", [2, 4, 7])
@pytest.mark.parametrize("batch_size", [3, 16])
def test_agrees_with_attacking_each_condition_apart(adaptive_steps: int, batch_size: int) -> None:
    grid = dataclasses.replace(GRID, adaptive_steps=adaptive_steps)
    target, test = Toy().eval(), make_dataset(10)
    frame = evaluate(target, DEFENCES, test, grid, batch_size=batch_size)
    columns = ["utterance", "defence", "attack", "strength", "knowledge"]
    given = {
        tuple(key): prediction
        for *key, prediction in frame[[*columns, "prediction"]].itertuples(index=False)
    }
    assert len(given) == len(frame)
    assert given == oracle(target, DEFENCES, test, grid)
    # The comparison would prove little if nothing ever changed.
    turned = frame.groupby("utterance")["prediction"].nunique()
    assert int((turned > 1).sum()) >= 3


def test_rows_say_what_they_are_of() -> None:
    test = make_dataset(5)
    frame = evaluate(Toy(), DEFENCES, test, GRID)
    assert set(frame["target"]) == {"toy"}
    assert set(frame["fold"]) == {2}
    assert set(frame["seed"]) == {5}
    assert set(frame["corpus"]) == {"made"}
    assert not frame.duplicated(list(KEY)).any()
    assert len(frame) == 5 * 3 * (1 + 2 + 4 + 2 + 2)
    one = frame[frame["utterance"] == "u03"].iloc[0]
    assert (one["speaker"], one["gender"], one["label"]) == ("s0", "female", "angry")
    assert frame[frame["utterance"] == "u02"].iloc[0]["gender"] == "unknown"


def test_strength_and_knowledge_of_each_condition() -> None:
    frame = evaluate(Toy(), DEFENCES, make_dataset(3), GRID)
    found = {
        (name, attack, knowledge): sorted(rows["strength"].unique().tolist())
        for (name, attack, knowledge), rows in frame.groupby(["defence", "attack", "knowledge"])
    }
    expected: dict[tuple[str, str, str], list[float]] = {}
    for name, exact in (
        ("undefended", "adaptive"),
        ("mean-filter", "adaptive"),
        ("quantise-4", "bpda"),
    ):
        expected[name, "none", "none"] = [0.0]
        expected[name, "fgsm", "oblivious"] = [0.02, 0.1]
        expected[name, "pgd", "oblivious"] = [1.0, 2.0, 3.0, 4.0]
        expected[name, "fgsm", exact] = [0.02, 0.1]
        expected[name, "pgd", exact] = [3.0, 4.0]
    assert found == expected


def test_nothing_before_the_target_makes_oblivious_attacks_adaptive() -> None:
    frame = evaluate(Toy(), {}, make_dataset(6), GRID)
    assert set(frame["defence"]) == {"undefended"}
    for attack, strength in (("pgd", 4), ("pgd", 3), ("fgsm", 0.1)):
        rows = frame[(frame["attack"] == attack) & (frame["strength"] == strength)]
        known = {k: part["prediction"].tolist() for k, part in rows.groupby("knowledge")}
        assert known["adaptive"] == known["oblivious"]


def test_a_classifier_may_stand_in_the_targets_place() -> None:
    """Adversarial training: oblivious inputs come from the target, adaptive ones from itself."""

    class Twin(Toy):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).roll(1, dims=1)

    target, twin, test = Toy().eval(), Twin().eval(), make_dataset(8)
    frame = evaluate(target, {"twin": twin}, test, GRID)
    batch = test.batch(np.arange(8))
    moved = {
        "oblivious": PGD(step=0.04, epsilon=0.1, steps=4)(target, batch.x, batch.y),
        "adaptive": PGD(step=0.04, epsilon=0.1, steps=4)(twin, batch.x, batch.y),
    }
    rows = frame[(frame["defence"] == "twin") & (frame["attack"] == "pgd")]
    rows = rows[rows["strength"] == 4]
    for knowledge, x in moved.items():
        with torch.no_grad():
            expected = [LABELS[int(i)] for i in twin(x).argmax(1)]
        given = rows[rows["knowledge"] == knowledge]["prediction"].tolist()
        assert given == expected, knowledge


def test_the_predicted_label_may_be_attacked() -> None:
    target, test = Toy().eval(), make_dataset(12)
    grid = dataclasses.replace(GRID, label="predicted")
    frame = evaluate(target, {}, test, grid)
    batch = test.batch(np.arange(12))
    with torch.no_grad():
        predicted = target(batch.x).argmax(1)
        assert not torch.equal(predicted, batch.y)  # else the two labels are one
    moved = PGD(step=0.04, epsilon=0.1, steps=2)(target, batch.x, predicted)
    with torch.no_grad():
        expected = [LABELS[int(i)] for i in target(moved).argmax(1)]
    rows = frame[(frame["strength"] == 2) & (frame["knowledge"] == "oblivious")]
    assert rows["prediction"].tolist() == expected


def test_one_attack_alone_is_that_part_of_the_whole() -> None:
    target, test = Toy().eval(), make_dataset(7)
    whole = evaluate(target, DEFENCES, test, GRID)
    engine = AttackEngine(dataset=EvaluationSet.of(test), identity=IDENTITY)
    those = systems(target, DEFENCES)
    parts = {"none": engine.clean(those)}
    for threat in GRID.oblivious():
        parts[threat.name] = engine.on_source(threat, target, those).frame
    for attack, part in parts.items():
        rows = whole[(whole["attack"] == attack) & whole["knowledge"].isin(("none", "oblivious"))]
        pd.testing.assert_frame_equal(part, rows.reset_index(drop=True))


class Spy(nn.Module):
    """Passes everything through and keeps what is scored (an attack's own passes are not)."""

    def __init__(self) -> None:
        super().__init__()
        self.scored: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            self.scored.append(x.clone())
        return x


def test_every_defence_is_scored_on_the_same_oblivious_inputs() -> None:
    first, second = Spy(), Spy()
    defences = {"first": first, "second": second}
    evaluate(Toy(), defences, make_dataset(4), GRID)
    assert len(first.scored) == 1 + 2 + 4 + 2 + 2
    for ours, theirs in zip(first.scored, second.scored, strict=True):
        assert torch.equal(ours, theirs)
    changes = [float((x - first.scored[0]).abs().max()) for x in first.scored]
    assert changes == pytest.approx(
        [0, 0.02, 0.1, 0.04, 0.08, 0.1, 0.1, 0.02, 0.1, 0.1, 0.1], abs=1e-6
    )


@pytest.mark.parametrize(
    ("count", "batch_size", "steps", "adaptive_steps", "defences"),
    [(5, 2, 3, 3, 2), (4, 4, 2, 5, 1), (7, 16, 5, 2, 0)],
)
def test_ticks_are_counted_beforehand(
    count: int, batch_size: int, steps: int, adaptive_steps: int, defences: int
) -> None:
    grid = AttackGrid(epsilons=(0.01,), steps=steps, adaptive_steps=adaptive_steps)
    given = {f"spy-{i}": Spy() for i in range(defences)}
    told: list[int] = []
    evaluate(
        Toy(),
        given,
        make_dataset(count),
        grid,
        batch_size=batch_size,
        tick=lambda: told.append(1),
    )
    one = sum(threat.ticks(count, batch_size) for threat in grid.oblivious())
    each = sum(threat.ticks(count, batch_size) for threat in grid.adaptive())
    batches = -(-count // batch_size)
    assert len(told) == batches + one + defences * each
    assert one == batches * (1 + max(steps, adaptive_steps))
    assert each == batches * (1 + adaptive_steps)


def test_a_random_defence_repeats_with_its_generator() -> None:
    def noisy(seed: int) -> list[str]:
        module = GaussianNoise(0.3, torch.Generator().manual_seed(seed))
        given = {"noise": module}
        frame = evaluate(Toy(), given, make_dataset(12), GRID)
        return list(frame["prediction"])

    assert noisy(1) == noisy(1)
    assert noisy(1) != noisy(2)


def test_a_target_in_training_mode_is_evaluated() -> None:
    test = make_dataset(6)
    target = nn.Sequential(nn.Dropout(0.9), Toy()).train()
    frame = evaluate(target, {}, test, GRID)
    expected = evaluate(Toy(), {}, test, GRID)
    assert frame["prediction"].tolist() == expected["prediction"].tolist()


@pytest.mark.parametrize("attack", [0, 1, 2])
def test_nan_is_refused_with_the_utterances_name(attack: int) -> None:
    class Nan(Toy):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.where(
                torch.arange(len(x)) == 4, math.nan, 1.0
            ).unsqueeze(1)

    engine = AttackEngine(dataset=EvaluationSet.of(make_dataset(6)), identity=IDENTITY)
    target = Toy()
    those = systems(target, {"broken": Nan()})
    fgsm, pgd = (partial(engine.on_source, threat, target, those) for threat in GRID.oblivious())
    parts: list[Callable[[], object]] = [partial(engine.clean, those), fgsm, pgd]
    with pytest.raises(ServaxError, match=r"output for utterance u04 is NaN or infinite \(1 of 6"):
        parts[attack]()


def test_a_defence_may_not_take_the_targets_name() -> None:
    sentence = "defence name is 'undefended', expected another name, this one is the bare target."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        evaluate(Toy(), {"undefended": Spy()}, make_dataset(2), GRID)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epsilons": ()}, "epsilons is (), expected at least one size."),
        ({"epsilons": (0.1, 0.1)}, "epsilons is (0.1, 0.1), expected each size once."),
        ({"epsilons": (0.1, 0.0)}, "epsilon is 0.0, expected a finite number above 0."),
        ({"step": -1.0}, "step is -1.0, expected a finite number above 0."),
        ({"radius": math.nan}, "radius is nan, expected a finite number of at least 0."),
        ({"steps": 0}, "steps is 0, expected a whole number of at least 1."),
        ({"adaptive_steps": 0}, "adaptive_steps is 0, expected a whole number of at least 1."),
    ],
)
def test_a_grid_refuses(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        AttackGrid(**given)


def test_the_grid_is_the_papers() -> None:
    grid = AttackGrid()
    assert grid.epsilons == (0.003, 0.006, 0.009, 0.012, 0.015)
    assert (grid.step, grid.radius, grid.steps, grid.adaptive_steps) == (0.003, 0.02, 30, 30)
    rebuilt: Sequence[float] = AttackGrid(epsilons=[0.1, 0.2]).epsilons  # type: ignore[arg-type]
    assert rebuilt == (0.1, 0.2)


def test_fast_gradients_are_named_in_every_row_and_clean_predictions_stay() -> None:
    test = make_dataset(6)
    fast = dataclasses.replace(GRID, gradients="bfloat16")
    plain, rough = (evaluate(Toy(), DEFENCES, test, grid, batch_size=4) for grid in (GRID, fast))
    assert set(plain["target"]) == {"toy"}
    assert set(rough["target"]) == {"toy (bfloat16 gradients)"}
    clean = plain["attack"] == "none"
    assert list(plain[clean]["prediction"]) == list(rough[clean]["prediction"])


def test_provenance_says_nothing_of_gradients_in_float32() -> None:
    assert "gradients" not in GRID.told()
    assert dataclasses.replace(GRID, gradients="bfloat16").told()["gradients"] == "bfloat16"
    assert GRID.told()["epsilons"] == GRID.epsilons


def test_a_grid_refuses_gradients_of_another_type() -> None:
    with pytest.raises(SettingError, match="gradients is 'float16', expected one of"):
        AttackGrid(gradients="float16")  # type: ignore[arg-type]
