"""What every attack refuses, each with its sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from servax.attacks import FGSM, PGD, Attack
from servax.errors import ServaxError, SettingError, ShapeError
from servax.perturbation import Ball, Linf

EPSILONS = (0.003, 0.006)
ATTACKS = {
    "FGSM": FGSM(epsilon=0.05),
    "PGD": PGD(step=0.02, epsilon=0.05, steps=4),
    "PGD random start": PGD(step=0.02, epsilon=0.05, steps=4, random_start=True),
}
attacks = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, kw_only=True)
class Cheat(Attack):
    """Says it stays in a ball of .1 and moves by .2."""

    @property
    def ball(self) -> Ball:
        return Linf(0.1)

    def iterates(self, problem) -> Iterator[torch.Tensor]:
        yield problem.x + 0.2


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-math.inf, math.inf)])
def test_an_attack_that_leaves_its_ball_is_found_out(build, inputs, bounds):
    x, y = inputs()
    sentence = (
        "the attack left its reach: distance 0.2 from the clean input, expected at most 0.1, "
        f"values expected in [{bounds[0]:g}, {bounds[1]:g}]."
    )
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        Cheat(bounds=bounds)(build("conv"), 0.5 * x, y)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FGSM(epsilon=0.0), "epsilon is 0.0, expected a finite number above 0."),
        (lambda: FGSM(epsilon=-0.1), "epsilon is -0.1, expected a finite number above 0."),
        (lambda: FGSM(epsilon=math.inf), "epsilon is inf, expected a finite number above 0."),
        (lambda: FGSM(epsilon=math.nan), "epsilon is nan, expected a finite number above 0."),
        (lambda: PGD(step=0.0), "step is 0.0, expected a finite number above 0."),
        (lambda: PGD(step=math.nan), "step is nan, expected a finite number above 0."),
        (lambda: PGD(steps=0), "steps is 0, expected a whole number of at least 1."),
        (lambda: PGD(steps=2.5), "steps is 2.5, expected a whole number of at least 1."),
        (lambda: PGD(steps=math.nan), "steps is nan, expected a whole number of at least 1."),
        (lambda: PGD(epsilon=-1.0), "epsilon is -1.0, expected a finite number of at least 0."),
        (lambda: PGD(epsilon=math.inf), "epsilon is inf, expected a finite number of at least 0."),
        (
            lambda: PGD(bounds=(1.0, 0.0)),
            "bounds is (1.0, 0.0), expected (low, high) with low < high.",
        ),
        (
            lambda: FGSM(bounds=(math.nan, 1.0)),
            "bounds is (nan, 1.0), expected (low, high) with low < high.",
        ),
        (
            lambda: FGSM(labels="predict"),
            "labels is 'predict', expected one of predicted, true. Did you mean 'predicted'?",
        ),
        (
            lambda: FGSM(norm="Linf"),
            "norm is 'Linf', expected servax.perturbation.Linf, L2 or SignalToNoise (the class).",
        ),
        (
            lambda: PGD(norm="l2"),
            "norm is 'l2', expected servax.perturbation.Linf, L2 or SignalToNoise (the class).",
        ),
    ],
)
def test_settings_outside_their_rule_are_refused(make, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        make()


def with_nan(x):
    return torch.where(x == x.max(), math.nan, x)


INPUTS = [
    (
        lambda x, y: (x + 0.5, y),
        SettingError,
        "x is 'in [0.5, 1.5]', expected values inside the bounds [0, 1]; scale the input or set "
        "bounds.",
    ),
    (
        lambda x, y: (with_nan(x), y),
        SettingError,
        "x is 'in [nan, nan]', expected values inside the bounds [0, 1]; scale the input or set "
        "bounds.",
    ),
    (
        lambda x, y: (x[:0], y[:0]),
        ShapeError,
        "x has shape (0, 1, 6, 8), expected (B, ...) with at least one element.",
    ),
    (
        lambda x, y: (x[:, 0, 0, 0], y),
        ShapeError,
        "x has shape (8,), expected (B, ...) with at least one element.",
    ),
    (
        lambda x, y: (x.round().long(), y),
        SettingError,
        "the type of x is torch.int64, expected a floating-point type.",
    ),
    (
        lambda x, y: (x, y[:7]),
        ShapeError,
        "y has shape (7,), expected (8,) class indices, one per input.",
    ),
    (
        lambda x, y: (x, y.unsqueeze(1)),
        ShapeError,
        "y has shape (8, 1), expected (8,) class indices, one per input.",
    ),
    (
        lambda x, y: (x, y.double()),
        SettingError,
        "the type of y is torch.float64, expected torch.int64, class indices.",
    ),
    (
        lambda x, y: (x, y + 2),
        SettingError,
        "y is 'in [2, 3]', expected classes in [0, 2].",
    ),
    # torch takes -100 for "ignore this input": the attack would do nothing.
    (
        lambda x, y: (x, -100 * y),
        SettingError,
        "y is 'in [-100, 0]', expected classes in [0, 2].",
    ),
]


@pytest.mark.parametrize(("change", "error", "sentence"), INPUTS)
@attacks
def test_inputs_an_attack_cannot_start_from_are_refused(
    build, inputs, attack, change, error, sentence
):
    x, y = change(*inputs())
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        attack(build("conv"), x, y, generator=seeded())


@pytest.mark.parametrize(("change", "error", "sentence"), INPUTS)
def test_a_sweep_refuses_the_same_inputs(build, inputs, change, error, sentence):
    x, y = change(*inputs())
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        list(FGSM().sweep(build("conv"), x, y, EPSILONS))


@pytest.mark.parametrize("epsilon", [0.0, -0.003, math.nan])
def test_a_sweep_refuses_an_epsilon_before_it_computes_anything(build, inputs, watch, epsilon):
    model = watch(build("conv"))
    sentence = f"epsilon is {epsilon!r}, expected a finite number above 0."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        list(FGSM().sweep(model, *inputs(), [0.1, epsilon]))
    assert model.forwards == 0


def test_a_random_start_without_a_generator_is_refused(build, inputs):
    sentence = "generator is None, expected a torch.Generator, the attack is random."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        PGD(random_start=True)(build("conv"), *inputs())


class Returns(nn.Module):
    """A model that returns something else than logits (B, C)."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x.flatten(1)[:, :3])


OUTPUTS = [
    (
        lambda logits: logits[:, 0],
        ShapeError,
        "the model's output has shape (8,), expected logits (8, C).",
    ),
    (
        lambda logits: logits[:4],
        ShapeError,
        "the model's output has shape (4, 3), expected logits (8, C).",
    ),
    (
        lambda logits: logits.unsqueeze(2),
        ShapeError,
        "the model's output has shape (8, 3, 1), expected logits (8, C).",
    ),
    (
        lambda logits: (logits, None),
        SettingError,
        "the model's output is 'tuple', expected a tensor of logits (8, C).",
    ),
    (
        lambda logits: logits.detach(),
        ServaxError,
        "no gradient reaches the input: some part of the model is not differentiable or detaches "
        "its output; expected a model that torch.autograd can follow.",
    ),
    (
        lambda logits: logits * math.nan,
        ServaxError,
        "the gradient is NaN or infinite: the model's output or its derivative is not finite at "
        "this input, check the model's weights and the range of the input.",
    ),
]


def test_nan_is_no_predicted_class(inputs):
    sentence = "the model's output for input 0 is NaN or infinite (8 of 8 in its batch), expected"
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}"):
        FGSM(labels="predicted")(Returns(lambda logits: logits * math.nan), *inputs())


@pytest.mark.parametrize(
    ("labels", "change", "error", "sentence"),
    [
        (labels, *output)
        for labels in ("true", "predicted")
        for output in OUTPUTS[: None if labels == "true" else -1]
    ],
)
def test_models_that_do_not_return_logits_are_refused(inputs, labels, change, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        FGSM(labels=labels)(Returns(change), *inputs())
