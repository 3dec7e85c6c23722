from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize

from servax.errors import SettingError
from servax.perturbation import L2, Linf

BALLS = [Linf, L2]
radii = st.floats(1e-3, 10.0)
changes = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    # NumPy squares smaller numbers to nothing; test_the_steepest_direction_... has them.
    elements=st.floats(-20, 20).map(lambda value: value if abs(value) > 1e-100 else 0.0),
)


def numpy_norm(kind, change):
    flat = change.reshape(len(change), -1)
    return np.linalg.norm(flat, ord=np.inf if kind is Linf else 2, axis=1)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("kind", BALLS)
@given(change=changes)
def test_norm_is_numpys(kind, change):
    found = kind(1.0).norm(torch.from_numpy(change)).numpy()
    np.testing.assert_allclose(found, numpy_norm(kind, change), rtol=1e-12, atol=1e-300)


def test_projections_by_hand():
    change = torch.tensor([[3.0, -4.0], [0.3, 0.4]])
    assert Linf(2.0).project(change).tolist() == [[2.0, -2.0], pytest.approx([0.3, 0.4])]
    assert L2(2.0).project(change).numpy() == pytest.approx(np.array([[1.2, -1.6], [0.3, 0.4]]))


@pytest.mark.parametrize("kind", BALLS)
@given(change=changes, radius=radii)
def test_projection_lies_inside_leaves_what_is_inside_and_is_done_once(kind, change, radius):
    ball = kind(radius)
    projected = ball.project(torch.from_numpy(change))
    norms = numpy_norm(kind, projected.numpy())
    assert (norms <= radius * (1 + 1e-12)).all()
    inside = numpy_norm(kind, change) <= radius
    np.testing.assert_allclose(projected.numpy()[inside], change[inside], rtol=1e-12)
    torch.testing.assert_close(ball.project(projected), projected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("seed", range(4))
def test_projection_is_the_nearest_point_that_scipy_finds(kind, seed):
    change = 2.0 * draw(1, 3, seed=seed)
    if kind is Linf:
        rule = {"bounds": [(-1.0, 1.0)] * 3}
    else:
        inside = {"type": "ineq", "fun": lambda z: 1.0 - z @ z, "jac": lambda z: -2.0 * z}
        rule = {"constraints": [inside]}
    found = optimize.minimize(
        lambda z: ((z - change[0].numpy()) ** 2).sum(),
        np.zeros(3),
        jac=lambda z: 2 * (z - change[0].numpy()),
        method="SLSQP",
        tol=1e-12,
        **rule,
    )
    np.testing.assert_allclose(kind(1.0).project(change)[0].numpy(), found.x, atol=1e-5)


def dual_norm(kind, gradient):
    """Return the largest product of a change of norm 1 with the gradient (Hoelder)."""
    flat = gradient.reshape(len(gradient), -1)
    return np.linalg.norm(flat, ord=1 if kind is Linf else 2, axis=1)


@pytest.mark.parametrize("kind", BALLS)
@given(gradient=changes, seed=st.integers(0, 1_000))
def test_no_change_of_norm_1_rises_more_than_the_steepest(kind, gradient, seed):
    ball = kind(1.0)
    steepest = ball.steepest(torch.from_numpy(gradient)).numpy()
    rise = (steepest * gradient).reshape(len(gradient), -1).sum(axis=1)
    np.testing.assert_allclose(rise, dual_norm(kind, gradient), rtol=1e-9, atol=1e-200)
    other = np.random.default_rng(seed).normal(size=gradient.shape)
    other /= numpy_norm(kind, other).reshape(-1, 1, 1)
    other_rise = (other * gradient).reshape(len(gradient), -1).sum(axis=1)
    assert (other_rise <= rise + 1e-9 * np.abs(rise) + 1e-200).all()
    norms = numpy_norm(kind, steepest)
    zero = np.abs(gradient).reshape(len(gradient), -1).max(axis=1) == 0
    np.testing.assert_allclose(norms, np.where(zero, 0.0, 1.0), rtol=1e-9)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-22, 1.0, 1e20, 1e37])
def test_the_steepest_direction_survives_tiny_and_huge_gradients(size):
    # A sure model's gradients are so small that their squares vanish in float32.
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]]) * size
    steepest = L2(1.0).steepest(gradient)
    torch.testing.assert_close(steepest, torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    norm = L2(1.0).norm(gradient)
    torch.testing.assert_close(norm, torch.tensor([5.0, 0.0]) * size, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("kind", BALLS)
@given(radius=radii, seed=st.integers(0, 1_000))
def test_samples_lie_inside_and_repeat_with_their_seed(kind, radius, seed):
    like = torch.zeros(5, 1, 3, 4)
    ball = kind(radius)
    sample = ball.sample(like, torch.Generator().manual_seed(seed))
    assert sample.shape == like.shape
    assert sample.dtype == like.dtype
    assert (ball.norm(sample) <= radius * (1 + 1e-6)).all()
    assert torch.equal(sample, ball.sample(like, torch.Generator().manual_seed(seed)))
    assert not torch.equal(sample[0], sample[1])


@pytest.mark.parametrize("kind", BALLS)
def test_samples_are_uniform_in_the_ball(kind):
    size, radius = 3, 2.0
    sample = kind(radius).sample(torch.zeros(20_000, size), torch.Generator().manual_seed(0))
    # In a uniform sample the share within r * radius is r**n, for both shapes.
    share = kind(radius).norm(sample) / radius
    for r in (0.3, 0.5, 0.8, 0.95):
        assert float((share < r).double().mean()) == pytest.approx(r**size, abs=0.012)
    assert sample.mean(dim=0).numpy() == pytest.approx(np.zeros(size), abs=0.04)
    spread = radius**2 / 3 if kind is Linf else radius**2 / (size + 2)
    covariance = torch.cov(sample.T).numpy()
    assert covariance == pytest.approx(spread * np.eye(size), abs=0.04)


@pytest.mark.parametrize("kind", BALLS)
def test_a_ball_of_radius_0_holds_only_zero(kind):
    assert torch.equal(kind(0.0).project(draw(2, 3)), torch.zeros(2, 3, dtype=torch.float64))
    assert kind(0.0).sample(draw(2, 3), torch.Generator()).abs().max() == 0.0


@pytest.mark.parametrize("build", [Linf, L2])
@pytest.mark.parametrize("radius", [-0.1, math.inf, -math.inf, math.nan])
def test_a_radius_outside_its_rule_is_refused(build, radius):
    sentence = f"radius is {radius!r}, expected a finite number of at least 0."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        build(radius)
