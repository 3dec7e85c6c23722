from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, strategies as st

from servax.errors import ServaxError
from servax.perturbation import L2, Linf, ascend, input_gradient, into_reach


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights):
    """Return an objective whose gradient is the same everywhere."""
    return lambda x: (x * weights).flatten(1).sum(dim=1)


def test_l2_on_a_linear_objective_walks_straight_and_stops_at_the_surface():
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    weights = torch.tensor([3.0, -4.0], dtype=torch.float64)
    walk = list(ascend(linear(weights), x, L2(0.25), step=0.1, steps=4))
    direction = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    for current, length in zip(walk, (0.1, 0.2, 0.25, 0.25), strict=True):
        torch.testing.assert_close(current, x + length * direction)


def test_linf_on_a_linear_objective_reaches_its_corner():
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    weights = torch.tensor([7.0, -0.001, 0.0], dtype=torch.float64)
    walk = list(ascend(linear(weights), x, Linf(0.25), step=0.1, steps=4))
    corner = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    for current, length in zip(walk, (0.1, 0.2, 0.25, 0.25), strict=True):
        torch.testing.assert_close(current, x + length * corner)


def test_bounds_stop_the_walk():
    x = torch.tensor([[0.95, 0.05]], dtype=torch.float64)
    weights = torch.tensor([1.0, -1.0], dtype=torch.float64)
    *_, last = ascend(linear(weights), x, Linf(0.25), step=0.1, steps=3)
    assert last.tolist() == [[1.0, 0.0]]
    *_, last = ascend(linear(weights), x, Linf(0.25), step=0.1, steps=3, bounds=(-1.0, 2.0))
    torch.testing.assert_close(last, torch.tensor([[1.2, -0.2]], dtype=torch.float64))


@given(
    st.sampled_from([Linf, L2]),
    st.floats(0.0, 1.0),
    st.floats(0.01, 2.0),
    st.integers(0, 500),
)
def test_every_iterate_stays_in_ball_and_bounds(kind, radius, step, seed):
    x = draw(2, 1, 2, 3, seed=seed)
    target = draw(2, 1, 2, 3, seed=seed + 1)
    ball = kind(radius)
    start = x + 3.0 * draw(2, 1, 2, 3, seed=seed + 2) - 1.5
    count = 0
    for current in ascend(
        lambda z: ((z - target) ** 2).flatten(1).sum(dim=1),
        x,
        ball,
        step=step,
        steps=4,
        start=start,
    ):
        count += 1
        assert (ball.norm(current - x) <= radius + 1e-12).all()
        assert float(current.min()) >= 0.0
        assert float(current.max()) <= 1.0
        assert not current.requires_grad
    assert count == 4


def test_a_start_is_moved_into_ball_and_bounds_before_the_first_gradient():
    seen = []

    def objective(x):
        seen.append(x.detach().clone())
        return x.flatten(1).sum(dim=1)

    x = torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    start = torch.tensor([[5.0, -5.0]], dtype=torch.float64)
    list(ascend(objective, x, Linf(0.2), step=0.1, steps=1, start=start))
    torch.testing.assert_close(seen[0], torch.tensor([[1.0, 0.3]], dtype=torch.float64))


def test_without_a_start_the_first_gradient_is_taken_at_x():
    seen = []

    def objective(x):
        seen.append(x.detach().clone())
        return x.flatten(1).sum(dim=1)

    x = draw(2, 3)
    before = x.clone()
    list(ascend(objective, x, Linf(0.2), step=0.1, steps=1))
    assert torch.equal(seen[0], x)
    assert torch.equal(x, before)


def test_a_step_is_computed_only_when_asked_for():
    calls = []

    def objective(x):
        calls.append(1)
        return x.flatten(1).sum(dim=1)

    walk = ascend(objective, draw(1, 2), Linf(0.5), step=0.1, steps=1_000_000)
    assert len(calls) == 0
    next(walk)
    next(walk)
    assert len(calls) == 2


def test_no_steps_yield_nothing():
    assert list(ascend(linear(draw(3)), draw(1, 3), Linf(0.5), step=0.1, steps=0)) == []


def test_the_gradient_is_that_of_the_sum_even_where_gradients_are_off():
    x = draw(2, 3)
    with torch.no_grad():
        found = input_gradient(lambda z: (z**3).sum(dim=1), x)
    torch.testing.assert_close(found, 3 * x**2)
    with torch.inference_mode():
        found = input_gradient(lambda z: (z**3).sum(dim=1), x)
    torch.testing.assert_close(found, 3 * x**2)


def test_the_objective_may_be_a_scalar():
    x = draw(2, 3)
    torch.testing.assert_close(input_gradient(lambda z: (z**2).sum(), x), 2 * x)


def test_parameters_get_no_gradient():
    layer = torch.nn.Linear(3, 2).double()
    input_gradient(lambda z: layer(z).sum(dim=1), draw(2, 3))
    assert layer.weight.grad is None


weights = torch.ones(2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "objective", [lambda x: x.detach().sum(), lambda x: (x.detach() * weights).sum()]
)
def test_an_objective_without_a_gradient_is_refused(objective):
    sentence = (
        "no gradient reaches the input: some part of the model is not differentiable or detaches "
        "its output; expected a model that torch.autograd can follow."
    )
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        input_gradient(objective, draw(1, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused(value):
    # The sign of NaN is 0: unseen, a broken model would pass for a robust one.
    sentence = (
        "the gradient is NaN or infinite: the model's output or its derivative is not finite at "
        "this input, check the model's weights and the range of the input."
    )
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}$"):
        input_gradient(lambda x: (value * x).sum(), draw(1, 2))


def test_into_reach_projects_then_clamps():
    x = torch.tensor([[0.1, 0.9]], dtype=torch.float64)
    moved = torch.tensor([[-0.8, 1.3]], dtype=torch.float64)
    assert into_reach(x, moved, Linf(0.3), (0.0, 1.0)).tolist() == [[0.0, 1.0]]
    assert into_reach(x, moved, Linf(0.3), (-9.0, 9.0)).numpy() == pytest.approx(
        torch.tensor([[-0.2, 1.2]]).numpy()
    )
