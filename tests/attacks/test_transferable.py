"""Momentum against torchattacks and a transcription; shrunk copies against torch's interpolate."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import nn

from servax.attacks import PGD, DiversePGD, MomentumPGD
from servax.attacks.gradient import shrunk
from servax.errors import SettingError, ShapeError
from servax.perturbation import L2

STEP, RADIUS, STEPS = 0.01, 0.05, 12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("name", ["conv", "linear"])
def test_momentum_agrees_with_torchattacks(torchattacks, build, inputs, name, decay):
    model = build(name)
    x, y = inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = torchattacks.MIFGSM(model, eps=RADIUS, alpha=STEP, steps=STEPS, decay=decay)
        theirs = oracle(x, y)
    ours = MomentumPGD(step=STEP, epsilon=RADIUS, steps=STEPS, decay=decay)(model, x, y)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-12)
    assert not torch.equal(ours, PGD(step=STEP, epsilon=RADIUS, steps=STEPS)(model, x, y)) or (
        name == "linear"
    )


def transcribed(model, x, y, decay, epsilon, step, sign, mask):
    """MI-FGSM for one utterance after the other, as Dong et al. print it (L2: section 3.4)."""
    found = []
    for clean, label in zip(x, y, strict=True):
        current, velocity = clean.clone(), torch.zeros_like(clean)
        for _ in range(6):
            leaf = current.clone().requires_grad_(True)
            loss = nn.functional.cross_entropy(model(leaf[None]), label[None])
            (gradient,) = torch.autograd.grad(sign * loss, leaf)
            gradient = gradient * mask
            velocity = decay * velocity + gradient / gradient.abs().sum()
            moved = current + step * velocity / velocity.norm()
            change = moved - clean
            change = change * min(1.0, epsilon / float(change.norm()))
            current = (clean + change).clamp(0.0, 1.0)
        found.append(current)
    return torch.stack(found)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_momentum_in_l2_follows_the_paper(build, inputs, targeted, masked):
    model = build("conv")
    x, y = inputs()
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[..., 5:] = not masked
    attack = MomentumPGD(step=0.2, epsilon=0.5, steps=6, norm=L2, targeted=targeted, decay=0.9)
    found = attack(model, x, y, mask=mask if masked else None)
    sign = -1.0 if targeted else 1.0
    expected = transcribed(model, x, y, 0.9, 0.5, 0.2, sign, mask)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10)


def test_without_momentum_it_is_pgd(build, inputs):
    settings = {"step": STEP, "epsilon": RADIUS, "steps": STEPS}
    model = build("conv")
    expected = PGD(**settings)(model, *inputs())
    assert torch.equal(MomentumPGD(decay=0.0, **settings)(model, *inputs()), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-44])
def test_momentum_survives_gradients_that_all_but_vanish(scale):
    # Float32's least positive number is 1.4e-45: the mean of such gradients may be 0.
    weight = torch.tensor([1.0, -1.0, 0.0, 0.0])
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.stack([weight, -weight]) * scale
    x = torch.full((1, 4), 0.5)
    found = MomentumPGD(step=0.1, epsilon=0.1, steps=3)(model, x, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.6, 0.5, 0.5]]))


@pytest.mark.parametrize("kind", [PGD, MomentumPGD])
def test_with_leave_utterances_stop_at_the_first_step_that_fools(build, inputs, kind):
    model = build("conv")
    x, _ = inputs()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    settings = {"step": 0.02, "epsilon": 0.3, "steps": 15}
    walk = torch.stack(list(kind(**settings).trajectory(model, x, y)))
    with torch.no_grad():
        wrong = torch.stack([model(z).argmax(dim=1) != y for z in walk])
    first = torch.where(wrong.any(dim=0), wrong.int().argmax(dim=0), len(walk) - 1)
    assert len(first.unique()) > 1
    expected = walk[first, torch.arange(len(x))]
    found = kind(early_stop=True, **settings)(model, x, y)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 7, 11), (1, 6, 4), (3, 1, 9)])
def test_a_shrunk_copy_is_that_of_interpolate_and_pad(shape):
    x = torch.rand(5, *shape, generator=seeded(), dtype=torch.float64)
    rate = torch.tensor([1.0, 0.9, 0.7, 0.5, 0.33], dtype=torch.float64)
    place = torch.rand(5, 2, generator=seeded(1), dtype=torch.float64)
    found = shrunk(x, rate, place, -2.0)
    height, width = shape[1:]
    for i in range(5):
        tall = max(1, round(float(rate[i]) * height))
        wide = max(1, round(float(rate[i]) * width))
        small = nn.functional.interpolate(
            x[i : i + 1], size=(tall, wide), mode="bilinear", align_corners=False
        )
        top = math.floor(float(place[i, 0]) * (height - tall + 1))
        left = math.floor(float(place[i, 1]) * (width - wide + 1))
        room = (left, width - wide - left, top, height - tall - top)
        expected = nn.functional.pad(small, room, value=-2.0)
        torch.testing.assert_close(found[i : i + 1], expected)


def test_a_waveform_shrinks_in_time():
    x = torch.rand(2, 40, generator=seeded(), dtype=torch.float64)
    rate = torch.tensor([0.75, 0.5], dtype=torch.float64)
    found = shrunk(x, rate, torch.zeros(2, 2, dtype=torch.float64), 0.0)
    for i, size in enumerate((30, 20)):
        small = nn.functional.interpolate(x[i : i + 1, None], size=size, mode="linear")[0, 0]
        torch.testing.assert_close(found[i, :size], small)
        assert not found[i, size:].any()


def seen_by(attack, x):
    """Return the inputs that a model is shown while it is attacked."""
    shown = []

    class Spy(nn.Module):
        def forward(self, z):
            shown.append(z.detach().clone())
            return z.flatten(1)[:, :3] * torch.tensor([1.0, 2.0, 3.0], dtype=z.dtype)

    attack(Spy(), x, torch.zeros(len(x), dtype=torch.int64), generator=seeded())
    return shown


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_copies_are_seen_with_the_probability_asked_for(probability):
    x = torch.rand(200, 1, 8, 12, generator=seeded(), dtype=torch.float64) * 0.5 + 0.25
    attack = DiversePGD(probability=probability, smallest=0.3, step=1e-9, epsilon=1e-9, steps=5)
    shown = seen_by(attack, x)
    assert len(shown) == 5
    changed = torch.stack([((z - x).abs().flatten(1) > 1e-6).any(dim=1) for z in shown])
    # A rate so near to 1 that both sides round up to themselves leaves 4 % or so as they are.
    assert abs(float(changed.double().mean()) - probability) < 0.08
    assert not torch.equal(changed[0], changed[1]) or probability == 1.0


@pytest.mark.parametrize(
    ("bounds", "fill"),
    [((0.0, 1.0), 0.0), ((-3.0, 5.0), 0.0), ((2.0, 3.0), 2.0), ((-3.0, -1.0), -1.0),
     ((-math.inf, math.inf), 0.0)],
)  # fmt: skip
def test_padding_is_the_valid_value_nearest_to_zero(bounds, fill):
    flat = fill + 0.5 if fill + 0.5 <= bounds[1] else fill - 0.5
    attack = DiversePGD(bounds=bounds, probability=1.0, smallest=0.3, step=1e-9, epsilon=1e-9)
    shown = torch.cat(seen_by(attack, torch.full((4, 1, 8, 12), flat, dtype=torch.float64)))
    elsewhere = shown[(shown - flat).abs() > 1e-6]
    assert len(elsewhere) > 0
    assert bool((elsewhere == fill).all())


def test_an_utterances_copies_do_not_depend_on_who_has_left(build, inputs):
    model = build("conv")
    x, _ = inputs()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    wrong = y.clone()
    wrong[:4] = (wrong[:4] + 1) % 3
    attack = DiversePGD(step=0.005, epsilon=0.03, steps=6, early_stop=True, smallest=0.5)
    among_all = attack(model, x, y, generator=seeded())
    among_few = attack(model, x, wrong, generator=seeded())
    torch.testing.assert_close(among_all[4:], among_few[4:])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MomentumPGD(decay=-0.1), "decay is -0.1, expected a finite number of at least 0."),
        (lambda: DiversePGD(probability=0.0), "probability is 0.0, expected a number in (0, 1]."),
        (lambda: DiversePGD(smallest=1.0), "smallest is 1.0, expected a number in (0, 1)."),
    ],
)
def test_settings_outside_their_rule_are_refused(make, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        make()


def test_inputs_that_cannot_shrink_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    sentence = "x has shape (1, 2, 2, 2, 2), expected (B, T), (B, M, F) or (B, C, M, F)"
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}"):
        DiversePGD()(model, torch.rand(1, 2, 2, 2, 2), torch.tensor([0]), generator=seeded())
