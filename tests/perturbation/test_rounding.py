"""Nothing leaves the L-inf ball by rounding, and float32 does not need float64 to see it."""

from __future__ import annotations

import pytest
import torch

from servax.perturbation import L2, Linf, Masked, into_ball

RADII = (0.02, 0.003, 0.5, 1 / 3, 1e-9, 0.1 * 3, 2.0**-7, 0.0)


def inputs(seed: int, low: float, scale: float) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return low + scale * torch.rand(4, 1, 16, 24, generator=draws)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize(("low", "scale"), [(0.0, 1.0), (-0.5, 1.0), (0.0, 1e-3), (0.0, 1e-30)])
def test_what_float32_decides_is_what_float64_does(radius, low, scale):
    for seed in range(4):
        x, noise = inputs(seed, low, scale), inputs(seed + 9, -0.5, 1.0)
        for reach in (1.0, 3.0):  # rounded out of the ball, or far outside
            moved = x + (4 * radius * noise).clamp(-reach * radius, reach * radius)
            found = into_ball(x, moved, Linf(radius))
            exact = moved.double() - x.double()
            assert ((found.double() - x.double()).abs() <= radius).all()
            inside = exact.abs() <= radius
            assert torch.equal(found[inside], moved[inside])
            # The element of its type that is nearest to the border is not given away.
            out = torch.where(x < found, torch.inf, -torch.inf)
            beyond = torch.nextafter(found, out).double() - x.double()
            assert (beyond.abs() >= radius)[~inside].all()


def test_a_masked_ball_says_when_forbidden_elements_change():
    x = inputs(0, 0.0, 1.0)
    mask = torch.arange(24) < 20
    found = into_ball(x, x + 0.5, Masked(Linf(0.02), mask))
    assert torch.equal(found[..., 20:], x[..., 20:])
    assert ((found.double() - x.double()).abs() <= 0.02).all()


def test_a_norm_that_is_one_step_too_long_is_brought_back():
    draws = torch.Generator().manual_seed(0)
    for _ in range(300):
        moved = torch.randn(1, 12, generator=draws, dtype=torch.float64)
        x, length = torch.zeros_like(moved), L2(1.0).norm(moved)
        radius = float(torch.nextafter(length, torch.zeros_like(length)))
        assert float(L2(1.0).norm(into_ball(x, moved, L2(radius)))) <= radius


def test_one_input_stands_for_many_changes_of_it():
    x = inputs(0, 0.0, 1.0)
    many = x[:1] + 0.5 * inputs(1, -0.5, 1.0)
    whole = into_ball(x[:1].expand_as(many), many, Linf(0.02))
    assert torch.equal(into_ball(x[:1], many, Linf(0.02)), whole)


def test_nobody_left_stays_nobody():
    nobody = inputs(0, 0.0, 1.0)[:0]
    assert into_ball(nobody, nobody, Linf(0.02)).shape == nobody.shape
