"""Square against torchattacks, on rectangles, and its windows against slow transcriptions."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import nn

from servax.attacks import Square
from servax.attacks.square import Rectangles, as_grid, extents, two_pyramids
from servax.errors import ShapeError
from servax.perturbation import L2, Linf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_network(*layers):
    """Return layers with weights from a seed; `layers` are made inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(*(make() for make in layers)).eval()


@pytest.fixture
def square_problem():
    """A small network, and 64 square inputs with the classes it says, about evenly spread."""
    model = drawn_network(
        lambda: nn.Conv2d(1, 6, 3, padding=1),
        nn.Tanh,
        lambda: nn.AvgPool2d(2),
        lambda: nn.Conv2d(6, 8, 3),
        nn.Tanh,
        nn.Flatten,
        lambda: nn.Linear(72, 3),
    )
    x = torch.rand(64, 1, 10, 10, generator=seeded(1))
    with torch.no_grad():
        model[-1].bias -= model(x).mean(dim=0)
        return model, x, model(x).argmax(dim=1)


def share_fooled(model, z, y):
    with torch.no_grad():
        return float((model(z).argmax(dim=1) != y).float().mean())


@pytest.mark.parametrize(("norm", "epsilon"), [(Linf, 0.04), (L2, 0.4)])
def test_it_fools_no_fewer_than_torchattacks(torchattacks, square_problem, norm, epsilon):
    model, x, y = square_problem
    ours, theirs = [], []
    for seed in range(3):
        attack = Square(epsilon=epsilon, norm=norm, queries=102)
        ours.append(share_fooled(model, attack(model, x, y, generator=seeded(seed)), y))
        # A hundred windows, after the clean input and the start.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle = torchattacks.Square(
                model, norm=norm.__name__, eps=epsilon, n_queries=100, seed=seed
            )
            theirs.append(share_fooled(model, oracle(x, y), y))
    assert 0.2 < sum(theirs) / 3 < 0.8
    assert sum(ours) / 3 >= sum(theirs) / 3 - 0.02


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize(
    "shape",
    [(1, 64, 373), (1, 5, 100), (1, 100, 5), (1, 1, 90), (90, 1), (2, 6, 4), (1, 1, 1), (1000,)],
    ids=str,
)
def test_rectangles_and_waveforms_keep_the_ball_and_raise_the_loss(norm, shape):
    model = drawn_network(nn.Flatten, lambda: nn.Linear(math.prod(shape), 5))
    x = torch.rand(3, *shape, generator=seeded(1))
    y = model(x).argmax(dim=1)
    attack = Square(epsilon=1e-3, norm=norm, queries=40)
    found = attack(model, x, y, generator=seeded())
    distance = attack.ball.norm(found - x)
    assert (distance <= 1e-3 * (1 + 1e-4)).all()
    assert (distance >= 0.99e-3).all()
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    loss = nn.functional.cross_entropy
    assert loss(model(found), y) > loss(model(x), y)


def test_linf_starts_with_vertical_stripes_and_every_element_at_a_rim():
    model = drawn_network(nn.Flatten, lambda: nn.Linear(72, 3))
    x = 0.25 + 0.5 * torch.rand(4, 2, 6, 6, generator=seeded(1))
    y = model(x).argmax(dim=1)
    start = Square(epsilon=1e-3, queries=2)(model, x, y, generator=seeded())
    change = (start - x) / 1e-3
    torch.testing.assert_close(change.abs(), torch.ones_like(x), atol=1e-3, rtol=0.0)
    assert torch.equal(change.sign(), change.sign()[:, :, :1].expand_as(x))
    assert not torch.equal(change[0].sign(), change[1].sign())
    assert not torch.equal(change[:, 0].sign(), change[:, 1].sign())


def test_a_linear_models_worst_corner_is_found_where_every_window_is_one_element():
    # Stripes and single elements: coordinate ascent, which the sum of a linear model cannot resist.
    model = drawn_network(nn.Flatten, lambda: nn.Linear(24, 2)).double()
    x = torch.rand(2, 1, 4, 6, generator=seeded(1), dtype=torch.float64)
    y = model(x).argmax(dim=1)
    attack = Square(epsilon=1e-3, queries=600, share=1 / 24, bounds=(-1.0, 2.0))
    weights = model[1].weight.detach()
    corner = x + 1e-3 * (weights[1 - y] - weights[y]).sign().view_as(x)
    torch.testing.assert_close(attack(model, x, y, generator=seeded()), corner)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_padded_frames_do_not_weaken_it(norm):
    """The unpadded part is attacked as if it were alone: same draws, same windows."""
    head = drawn_network(lambda: nn.Linear(30, 4)).double()
    model = nn.Sequential(First(6), head)
    x = torch.rand(4, 1, 5, 20, generator=seeded(1), dtype=torch.float64)
    y = model(x).argmax(dim=1)
    mask = (torch.arange(20) < 6).view(1, 1, 1, 20)
    attack = Square(epsilon=0.05, norm=norm, queries=60)
    padded = attack(model, x, y, generator=seeded(), mask=mask)
    alone = attack(model, x[..., :6], y, generator=seeded())
    assert torch.equal(padded[..., 6:], x[..., 6:])
    if norm is L2:  # the L-inf start draws a sign for each frame, padded or not
        torch.testing.assert_close(padded[..., :6], alone)
    distance = attack.ball.norm(padded - x)
    assert (distance <= 0.05 * (1 + 1e-9)).all()
    assert (distance[attack_failed(model, padded, y)] > 0.03).all()


class First(nn.Module):
    """Keeps the first frames and flattens them."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., : self.frames].flatten(1)


def attack_failed(model, z, y):
    return model(z).argmax(dim=1) == y


def test_an_utterance_that_may_not_change_costs_one_query_and_stays():
    model = drawn_network(nn.Flatten, lambda: nn.Linear(24, 2))
    x = torch.rand(2, 1, 4, 6, generator=seeded(1))
    y = model(x).argmax(dim=1)
    mask = torch.tensor([False, True]).view(2, 1, 1, 1)
    found = Square(epsilon=1e-6, queries=9).counted(model, x, y, generator=seeded(), mask=mask)
    assert found.queries.tolist() == [1, 9]
    assert torch.equal(found.inputs[0], x[0])


def test_the_share_of_the_elements_follows_the_schedule_of_torchattacks(torchattacks):
    for queries in (100, 1000, 10_000, 25_000):
        oracle = torchattacks.Square(nn.Identity(), n_queries=queries)
        ours = Square(queries=queries)
        for windows in range(0, queries, 7):
            assert ours.share_after(windows) == oracle.p_selection(windows)


def test_inputs_of_more_than_two_axes_and_channels_are_refused():
    sentence = "x has shape (2, 1, 1, 3, 4), expected (B, T), (B, M, F) or (B, channels, M, F)."
    model = drawn_network(nn.Flatten, lambda: nn.Linear(12, 2))
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        Square()(model, torch.zeros(2, 1, 1, 3, 4), torch.zeros(2).long(), generator=seeded())


# Windows


def whole(height, width, count=1):
    return extents(torch.ones(count, 1, height, width, dtype=torch.bool))


@pytest.mark.parametrize("size", [(64, 373), (5, 100), (100, 5), (1, 1000), (30, 1), (3, 3)])
@pytest.mark.parametrize("odd", [False, True])
def test_windows_fit_and_cover_their_share(size, odd):
    height, width = size
    for share in (1.0, 0.8, 0.4, 0.1, 0.01, 1e-4):
        tall, wide = (int(side) for side in whole(height, width).sides(share, odd=odd))
        assert 1 <= tall <= height
        assert 1 <= wide <= width
        side = max(1, round(math.sqrt(share * height * width)))
        if odd:
            side = max(3, side) + (max(3, side) + 1) % 2
        if side <= min(height, width):
            assert (tall, wide) == (side, side)
        else:
            # As tall (or wide) as it may be, and the area to a rounding of the longer side.
            assert min(tall, wide) == min(height, width)
            wished = max(share * height * width, min(3, max(size)) * min(size) if odd else 0)
            assert abs(tall * wide - wished) <= side + min(size)


def test_windows_reach_every_place_and_never_leave_their_box():
    mask = torch.zeros(1, 1, 7, 9, dtype=torch.bool)
    mask[..., 2:6, 3:8] = True
    box = extents(mask).at(torch.zeros(400, dtype=torch.int64))
    two, three = torch.full((400,), 2), torch.full((400,), 3)
    uniform = torch.rand(400, 2, generator=seeded(), dtype=torch.float64)
    inside = box.place(two, three, uniform).inside(mask)
    assert torch.equal(inside.any(dim=0, keepdim=True), mask)
    assert (inside.flatten(1).sum(dim=1) == 6).all()
    assert len({tuple(row) for row in inside.flatten(1).tolist()}) == 9


def test_extents_are_the_bounding_boxes():
    mask = torch.rand(20, 2, 6, 7, generator=seeded(2)) < 0.05
    mask[0] = False
    boxes = extents(mask)
    assert (int(boxes.height[0]), int(boxes.width[0])) == (0, 0)
    for row in range(1, 20):
        places = mask[row].nonzero()[:, 1:]
        if len(places) == 0:
            continue
        assert [int(boxes.top[row]), int(boxes.left[row])] == places.amin(dim=0).tolist()
        last = places.amax(dim=0) + 1
        assert int(boxes.top[row] + boxes.height[row]) == int(last[0])
        assert int(boxes.left[row] + boxes.width[row]) == int(last[1])


def transcribed(torchattacks, tall, wide):
    """Return the pattern of a window, cut through its height, made of torchattacks' halves."""
    oracle = torchattacks.Square(nn.Identity())
    oracle.device = "cpu"
    pattern = torch.zeros(tall, wide)
    pattern[: tall // 2] = oracle.eta_rectangles(tall // 2, wide)
    pattern[tall // 2 :] = -oracle.eta_rectangles(tall - tall // 2, wide)
    return pattern / pattern.norm()


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (9, 9), (4, 11), (11, 4), (2, 1), (3, 40)])
@pytest.mark.parametrize("upright", [True, False])
def test_patterns_are_those_of_torchattacks(torchattacks, size, upright):
    tall, wide = size
    expected = torch.zeros(50, 50)
    pattern = transcribed(torchattacks, tall, wide)
    window = Rectangles(**{k: torch.tensor([v]) for k, v in zip(
        ("top", "left", "height", "width"), (4, 2, tall, wide), strict=True
    )})  # fmt: skip
    expected[4 : 4 + tall, 2 : 2 + wide] = pattern
    if not upright:
        expected = expected.T
        window = Rectangles(
            top=window.left, left=window.top, height=window.width, width=window.height
        )
    found = two_pyramids(window, torch.tensor([upright]), torch.zeros(1, 1, 50, 50))
    torch.testing.assert_close(found[0, 0], expected, atol=1e-6, rtol=1e-5)


def test_a_waveform_is_one_row():
    assert as_grid(torch.zeros(2, 9)).shape == (2, 1, 1, 9)
    assert as_grid(torch.zeros(2, 3, 9)).shape == (2, 1, 3, 9)
