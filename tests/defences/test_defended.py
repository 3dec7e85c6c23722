"""BPDA and EOT against closed forms and plain averages."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from servax.attacks import FGSM, PGD
from servax.defences import (
    Bpda,
    Defended,
    ExpectationOverDraws,
    GaussianNoise,
    Quantise,
    SameDraws,
    draws_inside,
    draws_until_flat,
)
from servax.errors import SettingError, ShapeError
from servax.evaluation.trial import repeats


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def classifier(classes=3, size=12):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, classes)
        ).double()


def inputs(batch=5):
    x = torch.rand(batch, 1, 3, 4, generator=seeded(1), dtype=torch.float64)
    return x, torch.arange(batch) % 3


class ThroughNumpy(nn.Module):
    """Rounds outside torch: no gradient comes back."""

    def forward(self, x):
        return torch.from_numpy(np.round(x.detach().numpy() * 3) / 3)


class Add(nn.Module):
    """Adds noise of its own generator to the first logit."""

    def __init__(self, model, size=1.0):
        super().__init__()
        self.model, self.size, self.draws = model, size, seeded(9)

    def forward(self, x):
        logits = self.model(x)
        noise = torch.randn(len(x), generator=self.draws, dtype=x.dtype)
        return torch.cat([logits[:, :1] + self.size * noise[:, None], logits[:, 1:]], dim=1)


# BPDA


@pytest.mark.parametrize("defence", [ThroughNumpy(), Quantise(3)])
def test_bpda_says_exactly_what_the_defended_model_says(defence):
    model, (x, _) = classifier(), inputs()
    assert torch.equal(Bpda(model, defence)(x), model(defence(x)))


@pytest.mark.parametrize("defence", [ThroughNumpy(), nn.Threshold(0.5, 0.3)])
def test_bpda_takes_the_gradient_at_the_defended_input(defence):
    model, (x, y) = classifier(), inputs()
    leaf = x.clone().requires_grad_(True)
    nn.functional.cross_entropy(Bpda(model, defence)(leaf), y).backward()
    point = defence(x).clone().requires_grad_(True)
    nn.functional.cross_entropy(model(point), y).backward()
    torch.testing.assert_close(leaf.grad, point.grad)


def test_attacks_pass_where_the_gradient_did_not():
    model, (x, y) = classifier(), inputs()
    defended = Defended(model, ThroughNumpy())
    loss = nn.functional.cross_entropy
    found = PGD(epsilon=0.4, step=0.1)(Bpda(model, ThroughNumpy()), x, y)
    with torch.no_grad():
        assert loss(defended(found), y) > loss(defended(x), y)


def test_a_defence_that_changes_the_shape_is_refused():
    sentence = (
        "the defence's output has shape (5, 1, 3, 2), expected that of its input, (5, 1, 3, 4): "
        "BPDA takes the defence for the identity."
    )
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        Bpda(classifier(), nn.AvgPool2d((1, 2)))(inputs()[0])


# Expectation over draws


@pytest.mark.parametrize("draws", [1, 2, 7])
def test_the_expectation_is_the_log_of_the_mean_probability(draws):
    x, _ = inputs()
    found = ExpectationOverDraws(Add(classifier()), draws)(x)
    model = Add(classifier())
    mean = sum(model(x).softmax(dim=1) for _ in range(draws)) / draws
    torch.testing.assert_close(found, mean.log())
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_the_mean_may_be_of_the_logits():
    x, _ = inputs()
    model = Add(classifier())
    mean = sum(model(x) for _ in range(3)) / 3
    found = ExpectationOverDraws(Add(classifier()), 3, mean="logits")(x)
    assert torch.allclose(found, mean.log_softmax(dim=1))


def test_the_same_draws_come_again_and_nothing_else_is_drawn():
    x, _ = inputs()
    noise = GaussianNoise(0.1, seeded(5))
    model = ExpectationOverDraws(nn.Sequential(noise, classifier()), 2)
    held, state = SameDraws(model), noise.generator.get_state()
    first = held(x)
    assert torch.equal(held(x), first)
    assert not torch.equal(held(x[:3]), model(x[:3]))
    noise.generator.set_state(state)
    assert not torch.equal(model(x), first)
    other = GaussianNoise(0.1, seeded(0))
    twice = [classifier()(other(x)).softmax(1) for _ in range(2)]
    assert torch.allclose(first.exp(), sum(twice) / 2)


def test_for_a_model_that_is_not_random_it_changes_no_attack():
    model, (x, y) = classifier(), inputs()
    attack = FGSM(epsilon=0.05)
    torch.testing.assert_close(
        attack(ExpectationOverDraws(model, 4), x, y), attack(model, x, y), rtol=0.0, atol=1e-12
    )


def test_sure_models_keep_finite_scores():
    model, (x, _) = classifier(), inputs()
    loud = nn.Sequential(model, nn.Hardtanh(-1e9, 1e9))
    found = ExpectationOverDraws(Add(loud, size=1e5), 8)(x)
    assert found.isfinite().all()


@pytest.mark.parametrize(("size", "random"), [(0.0, False), (1e-2, True), (1.0, True)])
def test_random_models_are_found(size, random):
    assert repeats(Add(classifier(), size), inputs()[0]).random == random


def test_dropout_is_random_in_training_mode_only():
    model = nn.Sequential(classifier(), nn.Dropout(0.5)).train()
    assert not repeats(model, inputs()[0]).random
    assert model.training


def test_a_model_that_is_not_random_needs_one_draw():
    assert draws_until_flat(classifier(), *inputs()) == 1


def noisy(deviation):
    return Defended(classifier(), GaussianNoise(deviation, seeded(4)))


def test_more_noise_needs_more_draws():
    needed = [draws_until_flat(noisy(d), *inputs(), tolerance=0.02) for d in (0.003, 0.2, 0.6)]
    assert needed == sorted(needed)
    assert needed[0] == 1
    assert needed[-1] > 2
    assert all((n & (n - 1)) == 0 for n in needed)


class Orthogonal(nn.Module):
    """A gradient of fixed direction s plus white noise of deviation d: E cosine is known."""

    def __init__(self, deviation, size):
        super().__init__()
        self.deviation, self.size, self.draws = deviation, size, seeded(6)

    def forward(self, x):
        flat = x.flatten(1)
        noise = torch.randn(self.size, generator=self.draws, dtype=x.dtype)
        weight = 1e-6 * (torch.ones(self.size, dtype=x.dtype) + self.deviation * noise)
        score = flat @ weight
        return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize(("deviation", "expected"), [(0.2, 1), (0.9, 8), (1.2, 16), (1.8, 32)])
def test_the_draws_are_those_at_which_the_cosine_passes_its_mark(deviation, expected):
    # With n draws the cosine of two estimates is 1 / (1 + deviation^2 / n), in many dimensions.
    x = torch.rand(2, 1, 40, 500, generator=seeded(1), dtype=torch.float64)
    model = Orthogonal(deviation, 20_000)
    n = 1
    while 1 / (1 + deviation**2 / n) < 0.9:
        n *= 2
    assert n == expected
    assert draws_until_flat(model, x, torch.tensor([0, 1]), tolerance=0.1) == n


@pytest.mark.parametrize("most", [1, 3, 8])
def test_the_most_draws_are_a_limit(most):
    model = Orthogonal(100.0, 12)
    assert draws_until_flat(model, *(inputs()[0], torch.tensor([0, 1, 0, 1, 1])), most=most) == most


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: ExpectationOverDraws(classifier(), 0),
            "draws is 0, expected a whole number of at least 1.",
        ),
        (
            lambda: ExpectationOverDraws(classifier(), 2, "votes"),
            "mean is 'votes', expected one of logits, probabilities.",
        ),
        (
            lambda: draws_until_flat(classifier(), *inputs(), most=0),
            "most is 0, expected a whole number of at least 1.",
        ),
        (
            lambda: draws_until_flat(classifier(), *inputs(), tolerance=0.0),
            "tolerance is 0.0, expected a number in (0, 1).",
        ),
    ],
)
def test_settings_outside_their_rule_are_refused(make, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        make()


class Longing(torch.nn.Module):
    """Noise, and a network whose graph holds much more than a sound."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.first, self.last = torch.nn.Linear(50, 400), torch.nn.Linear(400, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noisy = x + 0.1 * torch.randn(x.shape, generator=self.generator)
        logits: torch.Tensor = self.last(torch.tanh(self.first(noisy)).square())
        return logits


def kept_by(model: torch.nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Return the numbers that a graph keeps for its gradient, and that gradient."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    leaf = x.clone().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(leaf)[:, 0].sum()
    before = kept
    (gradient,) = torch.autograd.grad(loss, leaf)
    return before, gradient


def test_draws_of_a_sound_are_computed_again_as_they_were_not_kept() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Longing().eval(), torch.randn(4, 50)
    kept, gradient = kept_by(ExpectationOverDraws(model, 6), x)
    after = model.generator.get_state()
    model.generator.manual_seed(3)
    leaf = x.clone().requires_grad_(True)
    each = torch.stack([model(leaf).log_softmax(1) for _ in range(6)])  # the graph of each is kept
    (expected,) = torch.autograd.grad(each.logsumexp(0)[:, 0].sum(), leaf)
    assert torch.allclose(gradient, expected, atol=1e-7)
    assert torch.equal(model.generator.get_state(), after)  # it draws on where it was
    once, _ = kept_by(model, x)
    assert kept < 2 * once


class ElsewhereDrawn(torch.nn.Module):
    """Scales a sum by what is drawn where nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.draws, self.drawn = np.random.default_rng(5), list[float]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.drawn.append(self.draws.normal())
        total = self.drawn[-1] * x.sum(dim=1, keepdim=True).square()
        return torch.cat([total, torch.zeros_like(total)], dim=1)


def test_draws_that_cannot_be_repeated_are_kept() -> None:
    model, x = ElsewhereDrawn(), torch.tensor([[1.0, 2.0]], requires_grad=True)
    logits = ExpectationOverDraws(model, 64, mean="logits")(x)
    (gradient,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], x)
    expected = 2 * 3 * np.mean(model.drawn[-64:])  # of s (1 + 2)²
    assert gradient.tolist() == [pytest.approx([expected, expected], rel=1e-5)]


def test_draws_of_an_answer_count_wherever_they_stand() -> None:
    mean = ExpectationOverDraws(classifier(), 3)
    assert draws_inside(classifier()) == 1
    assert draws_inside(torch.nn.Sequential(ExpectationOverDraws(mean, 2))) == 6
