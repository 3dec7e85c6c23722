from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.models import VGG16, feature_extractor, frozen
from servax.purifier import SSA
from servax.training import global_seed


def extractor() -> nn.Module:
    """Return a small smooth network; without ReLU no gradient is zero by accident."""
    with global_seed(0, "extractor"):
        network = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, stride=2), nn.Tanh()
        )
    return network.double().requires_grad_(False).eval()


def inputs(*shape: int) -> Tensor:
    """Return values on [0, 1] with some at either end, where clamping shows."""
    draws = torch.Generator().manual_seed(7)
    return (torch.rand(shape, generator=draws, dtype=torch.float64) * 1.2 - 0.1).clamp(0, 1)


def gen(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(x: Tensor, draws: torch.Generator) -> Tensor:
    return 2 * torch.rand(x.shape, generator=draws, dtype=x.dtype) - 1


def slow_ssa(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    start: Tensor,
    step: float,
    budget: float,
    steps: int,
) -> list[Tensor]:
    """Equations 1 to 3, one utterance and one element at a time."""

    def allowed(value: float, original: float) -> float:
        value = min(max(value, original - budget), original + budget)  # eq. 3
        return min(max(value, 0.0), 1.0)

    def nearest(moved: Tensor, original: Tensor) -> Tensor:
        pairs = zip(moved.flatten().tolist(), original.flatten().tolist(), strict=True)
        values = [allowed(value, center) for value, center in pairs]
        return torch.tensor(values, dtype=x.dtype).view_as(original)

    path = []
    current = torch.stack([nearest(s, original) for s, original in zip(start, x, strict=True)])
    for _ in range(steps):
        rows = []
        for now, original in zip(current, x, strict=True):
            leaf = now.clone().requires_grad_(True)
            distance = ((f(leaf[None]) - f(original[None])) ** 2).mean()  # eq. 1
            distance.backward()  # type: ignore[no-untyped-call]
            assert leaf.grad is not None
            signs = torch.tensor(
                [math.copysign(1.0, g) if g else 0.0 for g in leaf.grad.flatten().tolist()],
                dtype=x.dtype,
            ).view_as(original)
            rows.append(nearest(now + step * signs, original))  # eq. 2
        current = torch.stack(rows)
        path.append(current)
    return path


@pytest.mark.parametrize(
    ("ssa", "spread"),
    [(SSA(), 0.01), (SSA(step=0.03, epsilon=0.02, steps=4), 0.02), (SSA(start="ball"), None)],
    ids=["default", "wide step", "ball"],
)
def test_is_equations_1_to_3(ssa: SSA, spread: float | None) -> None:
    f, x = extractor(), inputs(3, 1, 9, 11)
    noise = uniform(x, gen())
    start = x + (spread * noise if spread else ssa.epsilon * noise.sign())
    expected = slow_ssa(f, x, start=start, step=ssa.step, budget=ssa.epsilon, steps=ssa.steps)
    path = list(ssa.iterates(f, x, f(x), gen()))
    assert len(path) == ssa.steps
    for ours, slow in zip(path, expected, strict=True):
        torch.testing.assert_close(ours, slow, rtol=0, atol=1e-12)
    assert torch.equal(ssa(f, x, f(x), gen()), path[-1])


@pytest.mark.parametrize("start", ["step", "ball"])
def test_stays_in_the_budget_and_in_the_range(start: Any) -> None:
    f, x = extractor(), inputs(4, 1, 12, 15)
    for distorted in SSA(step=0.02, steps=8, start=start).iterates(f, x, f(x), gen()):
        assert float((distorted - x).abs().max()) <= 0.06 + 1e-12
        assert float(distorted.min()) >= 0.0
        assert float(distorted.max()) <= 1.0


def test_pushes_the_features_away() -> None:
    with global_seed(0, "weights"):
        network = frozen(VGG16(4, 4))
    f, x = feature_extractor(network, "conv3_3"), inputs(4, 1, 32, 40).float()
    features = f(x)
    path = [x, *SSA().iterates(f, x, features, gen())]
    distances = [float((f(moved) - features).pow(2).mean()) for moved in path]
    assert distances[0] == 0.0
    assert distances[10] > distances[5] > distances[1] > 0.0
    noise = x + 0.06 * uniform(x, gen(2)).sign()
    assert distances[10] > 4 * float((f(noise.clamp(0, 1)) - features).pow(2).mean())


def test_nothing_moves_from_the_clean_input_itself() -> None:
    """Why the start is random: the gradient of eq. 2 is exactly zero at the clean input."""
    f, x = extractor(), inputs(2, 1, 9, 11)
    leaf = x.clone().requires_grad_(True)
    ((f(leaf) - f(x)) ** 2).mean().backward()
    assert leaf.grad is not None
    assert (leaf.grad == 0).all()
    unmoved = slow_ssa(f, x, start=x, step=0.01, budget=0.06, steps=2)
    assert torch.equal(unmoved[-1], x)


def test_the_generator_decides() -> None:
    f, x = extractor(), inputs(2, 1, 9, 11)
    torch.manual_seed(0)
    first = SSA()(f, x, f(x), gen(1))
    torch.manual_seed(1)
    assert torch.equal(first, SSA()(f, x, f(x), gen(1)))
    assert not torch.equal(first, SSA()(f, x, f(x), gen(2)))
    draws = gen(1)
    SSA()(f, x, f(x), draws)
    assert not torch.equal(first, SSA()(f, x, f(x), draws))  # drawn anew for each batch


class Blind(nn.Module):
    """Features that never change: the ascent stays where it starts."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.0 * x


def started(ssa: SSA, x: Tensor) -> Tensor:
    return ssa(Blind(), x, torch.zeros_like(x), gen())


def test_a_ball_start_is_a_corner_of_the_budget() -> None:
    x = inputs(2, 1, 20, 20)
    start = started(SSA(start="ball", epsilon=0.05), x)
    corners = torch.stack([(x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1)])
    assert float((start - corners).abs().amin(0).max()) < 1e-12
    assert 0.4 < float((start > x).double().mean()) < 0.6


def test_a_step_start_is_uniform_in_a_step() -> None:
    x = torch.full((2, 1, 20, 20), 0.5, dtype=torch.float64)
    for ssa, reach in ((SSA(), 0.01), (SSA(step=0.05, epsilon=0.02), 0.02)):
        change = (started(ssa, x) - x) / reach
        assert float(change.abs().max()) <= 1.0
        quarters = torch.histc(change, 4, -1, 1) / change.numel()
        assert float((quarters - 0.25).abs().max()) < 0.06


def test_utterances_do_not_influence_each_other() -> None:
    f, x = extractor(), inputs(3, 1, 9, 11)
    start = x + 0.01 * uniform(x, gen())
    alone = slow_ssa(f, x[:1], start=start[:1], step=0.01, budget=0.06, steps=10)[-1]
    together = SSA()(f, x, f(x), gen())
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-12)


def test_gradients_are_not_needed_around_it_nor_left_behind() -> None:
    f, x = extractor(), inputs(2, 1, 9, 11)
    expected = SSA()(f, x, f(x), gen())
    with torch.no_grad():
        distorted = SSA()(f, x, f(x), gen())
    assert torch.equal(distorted, expected)
    assert not expected.requires_grad
    assert all(p.grad is None for p in f.parameters())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"step": 0.0}, "step is 0.0, expected a number in (0, 1]."),
        ({"step": math.nan}, "step is nan, expected a number in (0, 1]."),
        ({"epsilon": 1.5}, "epsilon is 1.5, expected a number in (0, 1]."),
        ({"steps": 0}, "steps is 0, expected a whole number of at least 1."),
        (
            {"start": "bal"},
            "start is 'bal', expected one of ball, step. Did you mean 'ball'?",
        ),
    ],
)
def test_settings_refuse(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        SSA(**given)
